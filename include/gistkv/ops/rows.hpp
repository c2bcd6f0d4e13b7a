// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// o[i, :] = x[rows[i], :]
///
/// @param[out] o     [n, d]; must not alias x
/// @param[in]  x     [m, d]
/// @param[in]  rows  [n], each in [0, m): not checked, they may lie in device memory
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void gather_rows(B& be, matrix_view<T, space_of<B>> o,
                 std::type_identity_t<matrix_view<const T, space_of<B>>> x,
                 std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> rows) {
  expect_shape("gather_rows", "rows", rows, {o.extent(0)});
  expect_shape("gather_rows", "x", x, {x.extent(0), o.extent(1)});
  expect_contiguous_rows("gather_rows", "o", o);
  expect_contiguous_rows("gather_rows", "x", x);
  if (!o.empty()) be.gather_rows(o, x, rows);
}

/// o[rows[i], :] = x[i, :] where rows[i] >= 0; a negative row drops x[i, :]
///
/// @param[out] o     [m, d]; rows not named keep their elements; must not alias x
/// @param[in]  x     [n, d]
/// @param[in]  rows  [n], each below m, no two equal unless negative: not checked
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void scatter_rows(B& be, matrix_view<T, space_of<B>> o,
                  std::type_identity_t<matrix_view<const T, space_of<B>>> x,
                  std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> rows) {
  expect_shape("scatter_rows", "rows", rows, {x.extent(0)});
  expect_shape("scatter_rows", "o", o, {o.extent(0), x.extent(1)});
  expect_contiguous_rows("scatter_rows", "o", o);
  expect_contiguous_rows("scatter_rows", "x", x);
  if (!x.empty()) be.scatter_rows(o, x, rows);
}

}  // namespace gistkv::ops
