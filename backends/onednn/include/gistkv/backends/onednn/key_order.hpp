// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <gistkv/backends/onednn/kernels.hpp>
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

/// How many parts the keys of n_items tiles of queries are cut into: enough tasks that a thread
/// which comes late finds some left and, if the keys are enough for it, as many for each thread.
inline index_t splits_of_keys(index_t n_threads, index_t n_items, index_t n_keys) {
  if (n_threads == 1) return 1;
  const index_t wanted = (4 * n_threads + n_items - 1) / n_items;
  index_t n = std::clamp<index_t>(n_keys / (2 * key_block), 1, wanted);
  while (n > 1 && n < n_keys / key_block && n * n_items % n_threads != 0) ++n;
  return n;
}

}  // namespace gistkv::backends::onednn_detail
