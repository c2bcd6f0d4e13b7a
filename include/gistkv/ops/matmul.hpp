// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// o[b, i, j] = alpha sum_k a[b, i, k] b[b, k, j]      (+ o[b, i, j] with `accumulate`)
///
/// The product of two activations, batched over the first dimension; a batch stride of 0 shares one
/// matrix. With `transpose_b`, b is [batch, n, k]. Sums are carried in accumulate_t<T>.
/// @param[out] o  [batch, m, n]; must not alias a or b
/// @param[in]  a  [batch, m, k]
/// @param[in]  b  [batch, k, n], or [batch, n, k] with transpose_b
/// k = 0 gives 0 (with accumulate: leaves o). Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void matmul(B& be, tensor_view<T, 3, space_of<B>> o,
            std::type_identity_t<tensor_view<const T, 3, space_of<B>>> a,
            std::type_identity_t<tensor_view<const T, 3, space_of<B>>> b,
            const matmul_options& options = {}) {
  const index_t batch = o.extent(0);
  const index_t k = a.extent(2);
  expect_shape("matmul", "a", a, {batch, o.extent(1), k});
  if (options.transpose_b) {
    expect_shape("matmul", "b", b, {batch, o.extent(2), k});
  } else {
    expect_shape("matmul", "b", b, {batch, k, o.extent(2)});
  }
  expect_contiguous_rows("matmul", "o", o);
  expect_contiguous_rows("matmul", "a", a);
  expect_contiguous_rows("matmul", "b", b);
  if (!o.empty()) be.matmul(o, a, b, options);
}

}  // namespace gistkv::ops
