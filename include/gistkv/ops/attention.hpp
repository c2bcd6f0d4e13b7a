// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/mask/visible_spans.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/check_keys.hpp>
#include <gistkv/ops/composed/attention.hpp>

namespace gistkv::ops {

/// Bytes of scratch for `attention` on any backend; 0 where a native path needs none.
/// @param head_dim  of a cache whose elements KV are not T
template <class B, class T, class KV = T>
constexpr std::size_t attention_workspace_size(index_t n_q, index_t n_heads, index_t n_kv_heads,
                                               index_t n_keys, index_t head_dim = 0) {
  if constexpr (B::native_attention) {
    return 0;
  } else {
    return composed::attention_workspace_size<B, T, KV>(n_q, n_heads, n_kv_heads, n_keys, head_dim);
  }
}

namespace detail {
/// @throws shape_error for arguments of ops::attention that do not fit together.
template <class B, class T, class KV>
void expect_attention(const attention_call<T, space_of<B>, KV>& c) {
  const auto& [o, q, kv, spans, lse] = c;
  expect_shape("attention", "q", q, o.extents());
  expect_keys("attention", q, kv, spans);
  if (!lse.empty()) expect_shape("attention", "lse", lse, {q.extent(0), q.extent(1)});
  expect_contiguous_rows("attention", "o", o);
}
}  // namespace detail

/// o[i, h, :] = sum_j softmax_j(scale <q[i, h, :], k[h / g, j, :]>) v[h / g, j, :],
/// g = n_heads / n_kv_heads, over the rows j that spans[i] names: anchors [0, spans[i].anchors) of
/// kv.shared and kv.own laid end to end, and rows [local_begin, local_end) of kv.local.
///
/// This is sentence attention in the form that kernels use: two contiguous streams, no mask matrix.
/// A query that sees nothing gives o = 0 and lse = -inf.
/// @param[out] o      [n_q, n_heads, head_dim]; must not alias q or kv
/// @param[in]  q      [n_q, n_heads, head_dim]
/// @param[in]  kv     each part [n_kv_heads, rows, head_dim]; parts may be empty. Its element type
///                    is T, or another one that the backend has caches of
/// @param[in]  spans  n_q entries, on the host and in the backend's memory
/// @param[in]  scratch  at least attention_workspace_size bytes
/// @param[out] lse    [n_q, n_heads], natural logarithm, or empty
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T, class KV = T>
requires Computes<B, T>
void attention(B& be, tensor_view<T, 3, space_of<B>> o,
               std::type_identity_t<tensor_view<const T, 3, space_of<B>>> q,
               const std::type_identity_t<kv_spans<KV, space_of<B>>>& kv, const span_list& spans,
               double scale, workspace<B>& scratch,
               std::type_identity_t<matrix_view<T, space_of<B>>> lse = {}) {
  detail::expect_attention<B, T, KV>({o, q, kv, spans, lse});
  if (o.empty()) return;
  static_assert(std::is_same_v<T, KV> || B::template native_cache<KV>,
                "the backend has no caches of another type than its elements");
  if constexpr (B::native_attention) {
    be.attention(o, q, kv, spans, scale, lse);
  } else {
    composed::attention<B, T, KV>(be, o, q, kv, spans, scale, scratch, lse);
  }
}

/// Sequences of one number of heads and one head dimension, each by itself as ops::attention takes
/// it, in one call: a backend's own, which keeps a device busy that one of them would not, or one
/// after the other. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void attention_batch(B& be, std::span<const attention_call<T, space_of<B>>> calls, double scale,
                     workspace<B>& scratch) {
  if constexpr (B::native_attention_batch) {
    for (const auto& c : calls) detail::expect_attention<B, T, T>(c);
    expect_same_heads("attention_batch", calls);
    if (!calls.empty()) be.attention_batch(calls, scale);
  } else {
    for (const auto& c : calls) {
      attention<B, T>(be, c.o, c.q, c.kv, c.spans, scale, scratch, c.lse);
    }
  }
}

/// The same over one dense block of keys and any mask: o[i, h, :] over the keys j with mask(i, j).
///
/// @param[in] k, v  [n_kv_heads, n_k, head_dim]
/// Always composed: a mask that is not of the two-span form is for tests, baselines and research.
template <class B, class T, AttentionMask M>
requires Computes<B, T>
void attention(B& be, tensor_view<T, 3, space_of<B>> o,
               std::type_identity_t<tensor_view<const T, 3, space_of<B>>> q,
               std::type_identity_t<tensor_view<const T, 3, space_of<B>>> k,
               std::type_identity_t<tensor_view<const T, 3, space_of<B>>> v, const M& mask,
               double scale, workspace<B>& scratch,
               std::type_identity_t<matrix_view<T, space_of<B>>> lse = {}) {
  expect_shape("attention", "q", q, o.extents());
  expect_shape("attention", "k", k, {k.extent(0), k.extent(1), q.extent(2)});
  expect_shape("attention", "v", v, k.extents());
  if (k.extent(0) == 0 || q.extent(1) % k.extent(0) != 0) {
    throw shape_error("attention: n_heads " + std::to_string(q.extent(1)) +
                      " is no multiple of n_kv_heads " + std::to_string(k.extent(0)));
  }
  if (!lse.empty()) expect_shape("attention", "lse", lse, {q.extent(0), q.extent(1)});
  expect_contiguous_rows("attention", "o", o);
  expect_contiguous_rows("attention", "q", q);
  expect_contiguous_rows("attention", "k", k);
  expect_contiguous_rows("attention", "v", v);
  if (!o.empty()) composed::attention<B, T>(be, o, q, {k, v}, mask, scale, scratch, lse);
}

}  // namespace gistkv::ops
