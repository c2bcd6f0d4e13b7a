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
