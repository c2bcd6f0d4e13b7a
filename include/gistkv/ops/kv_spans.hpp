// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include <gistkv/core/tensor_view.hpp>
#include <gistkv/mask/visible_spans.hpp>

namespace gistkv {

/// Keys and values of consecutive rows, [n_kv_heads, rows, head_dim] each.
template <class T, MemorySpace Space>
struct kv_span {
  tensor_view<const T, 3, Space> k = {};
  tensor_view<const T, 3, Space> v = {};
  index_t rows() const { return k.extent(1); }
};

/// The up to three parts of one layer of a gist cache. Anchors are `shared` and `own` laid end to
/// end; `local` holds the open sentence and what else is raw, in token order.
template <class T, MemorySpace Space>
struct kv_spans {
  kv_span<T, Space> shared = {};
  kv_span<T, Space> own = {};
  kv_span<T, Space> local = {};

  index_t n_kv_heads() const {
    return std::max({shared.k.extent(0), own.k.extent(0), local.k.extent(0)});
  }
};

/// visible_spans of all queries, twice: the host reads one to plan, kernels the other. In host
/// memory both are the same array.
struct span_list {
  std::span<const visible_spans> host = {};
  const visible_spans* in_backend_memory = nullptr;
};

/// What some queries see between them: anchors [0, n_anchors), local rows [local_begin, local_end).
struct seen_keys {
  index_t n_anchors = 0;
  index_t local_begin = 0;
  index_t local_end = 0;
};

/// The least ranges that hold those of all `spans`, of n_local local rows.
inline seen_keys seen_by(std::span<const visible_spans> spans, index_t n_local) {
  seen_keys seen{.local_begin = n_local};
  for (const visible_spans& s : spans) {
    seen.n_anchors = std::max<index_t>(seen.n_anchors, s.anchors);
    if (s.local_begin >= s.local_end) continue;
    seen.local_begin = std::min<index_t>(seen.local_begin, s.local_begin);
    seen.local_end = std::max<index_t>(seen.local_end, s.local_end);
  }
  seen.local_begin = std::min(seen.local_begin, seen.local_end);
  return seen;
}

/// One sequence of ops::attention_batch: the arguments of ops::attention.
template <class T, MemorySpace Space, class KV = T>
struct attention_call {
  tensor_view<T, 3, Space> o = {};
  tensor_view<const T, 3, Space> q = {};
  kv_spans<KV, Space> kv = {};
  span_list spans = {};
  matrix_view<T, Space> lse = {};
};

}  // namespace gistkv
