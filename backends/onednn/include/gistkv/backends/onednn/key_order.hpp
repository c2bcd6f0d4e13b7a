// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::backends::onednn_detail {

/// The keys that any query sees, in the order [anchors | local rows].
struct key_order {
  index_t n_anchors = 0;    ///< Seen ones.
  index_t local_begin = 0;  ///< Seen local rows.
  index_t local_end = 0;
  index_t all_anchors = 0;
  index_t total = 0;

  template <class KV, MemorySpace Space>
  key_order(const kv_spans<KV, Space>& kv, std::span<const visible_spans> spans)
      : local_begin(kv.local.rows()),
        all_anchors(kv.shared.rows() + kv.own.rows()),
        total(all_anchors + kv.local.rows()) {
    for (const visible_spans& s : spans) {
      n_anchors = std::max<index_t>(n_anchors, s.anchors);
      if (s.local_begin >= s.local_end) continue;
      local_begin = std::min<index_t>(local_begin, s.local_begin);
      local_end = std::max<index_t>(local_end, s.local_end);
    }
    local_begin = std::min(local_begin, local_end);
  }
  index_t size() const { return n_anchors + local_end - local_begin; }
  /// Number among all keys of the i-th one that is seen.
  index_t number(index_t i) const {
    return i < n_anchors ? i : all_anchors + local_begin + i - n_anchors;
  }
};

}  // namespace gistkv::backends::onednn_detail
