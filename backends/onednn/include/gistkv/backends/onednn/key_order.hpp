// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::backends::onednn_detail {

/// The keys that any query sees, in the order [anchors | local rows].
struct key_order : seen_keys {
  index_t all_anchors = 0;
  index_t total = 0;

  template <class KV, MemorySpace Space>
  key_order(const kv_spans<KV, Space>& kv, std::span<const visible_spans> spans)
      : seen_keys(seen_by(spans, kv.local.rows())),
        all_anchors(kv.shared.rows() + kv.own.rows()),
        total(all_anchors + kv.local.rows()) {}
  index_t size() const { return n_anchors + local_end - local_begin; }
  /// Number among all keys of the i-th one that is seen.
  index_t number(index_t i) const {
    return i < n_anchors ? i : all_anchors + local_begin + i - n_anchors;
  }
};

}  // namespace gistkv::backends::onednn_detail
