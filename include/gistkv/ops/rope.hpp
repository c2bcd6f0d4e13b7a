// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// With a = positions[i] * frequencies[j], m = options.magnitude, for j < head_dim / 2, in place:
///   x[i, h, j]                <- m (x[i, h, j] cos a - x[i, h, j + head_dim / 2] sin a)
///   x[i, h, j + head_dim / 2] <- m (x[i, h, j + head_dim / 2] cos a + x[i, h, j] sin a)
///
/// Rotary embedding (Su et al. 2021, arXiv 2104.09864, equation 34) on half-split pairs. The angle
/// is formed in double or in a way no less exact up to 2^20 radians.
/// @param[in,out] x            [n, n_heads, head_dim]
/// @param[in]     positions    [n], not negative
/// @param[in]     frequencies  [head_dim / 2], radians a position
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void rope(B& be, tensor_view<T, 3, space_of<B>> x,
          std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> positions,
          std::type_identity_t<vector_view<const float, space_of<B>>> frequencies,
          const rope_options& options = {}) {
  expect_shape("rope", "positions", positions, {x.extent(0)});
  if (x.extent(2) % 2 != 0) {
    throw shape_error("rope: head_dim " + std::to_string(x.extent(2)) + " is odd");
  }
  expect_shape("rope", "frequencies", frequencies, {x.extent(2) / 2});
  expect_contiguous_rows("rope", "x", x);
  expect_contiguous_rows("rope", "positions", positions);
  expect_contiguous_rows("rope", "frequencies", frequencies);
  if (!x.empty()) be.rope(x, positions, frequencies, options);
}

}  // namespace gistkv::ops
