// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// rms:   o[i, :] = x[i, :] / sqrt(mean_j(x[i, j]^2) + eps) * weight  (+ bias)
/// layer: o[i, :] = (x[i, :] - m_i) / sqrt(var_j(x[i, j]) + eps) * weight  (+ bias), var over d
///
/// @param[out] o       [n, d]; may be x
/// @param[in]  x       [n, d]
/// @param[in]  weight  [d]
/// @param[in]  bias    [d], or empty for none
/// A row of zeros gives 0 (+ bias). Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void norm(B& be, matrix_view<T, space_of<B>> o,
          std::type_identity_t<matrix_view<const T, space_of<B>>> x,
          std::type_identity_t<vector_view<const T, space_of<B>>> weight,
          std::type_identity_t<vector_view<const T, space_of<B>>> bias,
          const norm_options& options = {}) {
  expect_shape("norm", "x", x, o.extents());
  expect_shape("norm", "weight", weight, {o.extent(1)});
  if (!bias.empty()) expect_shape("norm", "bias", bias, {o.extent(1)});
  expect_contiguous_rows("norm", "o", o);
  expect_contiguous_rows("norm", "x", x);
  expect_contiguous_rows("norm", "weight", weight);
  expect_contiguous_rows("norm", "bias", bias);
  if (!o.empty()) be.norm(o, x, weight, bias, options);
}

}  // namespace gistkv::ops
