// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

#include <gistkv/core/training_backend.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/check_keys.hpp>
#include <gistkv/ops/composed/attention_backward.hpp>

namespace gistkv::ops {

/// Bytes of scratch for `attention_backward` on any backend.
template <class B, class T>
constexpr std::size_t attention_backward_workspace_size(index_t n_q, index_t n_heads,
                                                        index_t n_kv_heads, index_t n_keys) {
  if constexpr (native_attention_backward<B>) {
    return 0;
  } else {
    return composed::attention_backward_workspace_size<B, T>(n_q, n_heads, n_kv_heads, n_keys);
  }
}

namespace detail {
/// @throws shape_error for arguments of ops::attention_backward that do not fit together.
template <class B, class T>
void expect_attention_backward(const attention_derivative<T, space_of<B>>& c) {
  const auto& [dq, d_own, d_local, d_o, q, o, lse, kv, spans] = c;
  expect_shape("attention_backward", "q", q, dq.extents());
  expect_shape("attention_backward", "o", o, dq.extents());
  expect_shape("attention_backward", "d_o", d_o, dq.extents());
  expect_shape("attention_backward", "lse", lse, {dq.extent(0), dq.extent(1)});
  if (kv.shared.rows() > 0) {
    throw shape_error("attention_backward: kv.shared has " + std::to_string(kv.shared.rows()) +
                      " rows, expected 0");
  }
  if (kv.own.rows() > 0) {
    expect_shape("attention_backward", "d_own.dk", d_own.dk, kv.own.k.extents());
    expect_shape("attention_backward", "d_own.dv", d_own.dv, kv.own.k.extents());
  }
  expect_shape("attention_backward", "d_local.dk", d_local.dk, kv.local.k.extents());
  expect_shape("attention_backward", "d_local.dv", d_local.dv, kv.local.k.extents());
  expect_keys("attention_backward", q, kv, spans);
  expect_contiguous_rows("attention_backward", "dq", dq);
  expect_contiguous_rows("attention_backward", "o", o);
  expect_contiguous_rows("attention_backward", "d_o", d_o);
  for (const auto& part : std::array{d_own, d_local}) {
    if (part.dk.empty()) continue;
    expect_contiguous_rows("attention_backward", "dk", part.dk);
    expect_contiguous_rows("attention_backward", "dv", part.dv);
  }
}
}  // namespace detail

/// Derivatives of ops::attention. With p the probabilities, o the result, and
/// ds[i, j] = scale p[i, j] (<d_o[i], v[j]> - <d_o[i], o[i]>):
///   dq[i] = sum_j ds[i, j] k[j],  dk[j] += sum_i ds[i, j] q[i],  dv[j] += sum_i p[i, j] d_o[i]
/// for each head; the heads of a group add to the same keys.
/// @param[out]    dq              [n_q, n_heads, head_dim]
/// @param[in,out] d_own, d_local  as kv.own and kv.local; empty where these are
/// @param[in]     d_o             [n_q, n_heads, head_dim]
/// @param[in]     o, lse          what ops::attention gave for q, kv, spans, scale
/// @param[in]     kv              `shared` must be empty: what is read-only has no derivative
/// @param[in]     scratch         at least attention_backward_workspace_size bytes
/// A query that sees nothing gives dq = 0. @throws shape_error.
template <class B, class T>
requires Trains<B, T>
void attention_backward(B& be, tensor_view<T, 3, space_of<B>> dq,
                        const kv_gradient<T, space_of<B>>& d_own,
                        const kv_gradient<T, space_of<B>>& d_local,
                        std::type_identity_t<tensor_view<const T, 3, space_of<B>>> d_o,
                        std::type_identity_t<tensor_view<const T, 3, space_of<B>>> q,
                        std::type_identity_t<tensor_view<const T, 3, space_of<B>>> o,
                        std::type_identity_t<matrix_view<const T, space_of<B>>> lse,
                        const kv_spans<T, space_of<B>>& kv, const span_list& spans, double scale,
                        workspace<B>& scratch) {
  detail::expect_attention_backward<B, T>({dq, d_own, d_local, d_o, q, o, lse, kv, spans});
  if (dq.empty()) return;
  if constexpr (native_attention_backward<B>) {
    be.attention_backward(dq, d_own, d_local, d_o, q, o, lse, kv, spans, scale);
  } else {
    composed::attention_backward<B, T>(be, dq, d_own, d_local, d_o, q, kv, spans, scale, scratch);
  }
}

/// Derivatives of ops::attention_batch: sequences of one number of heads and one head dimension,
/// each by itself as ops::attention_backward takes it. No two of them add to the same memory.
/// @throws shape_error.
template <class B, class T>
requires Trains<B, T>
void attention_backward_batch(B& be, std::span<const attention_derivative<T, space_of<B>>> calls,
                              double scale, workspace<B>& scratch) {
  if constexpr (native_attention_backward_batch<B>) {
    for (const auto& c : calls) detail::expect_attention_backward<B, T>(c);
    expect_same_heads("attention_backward_batch", calls);
    if (!calls.empty()) be.attention_backward_batch(calls, scale);
  } else {
    for (const auto& c : calls) {
      attention_backward<B, T>(be, c.dq, c.d_own, c.d_local, c.d_o, c.q, c.o, c.lse, c.kv, c.spans,
                               scale, scratch);
    }
  }
}

}  // namespace gistkv::ops
