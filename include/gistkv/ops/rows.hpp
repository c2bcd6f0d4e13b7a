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
/// T may also be an element type that only the backend's caches have.
/// Asynchronous. Allocates: no. @throws shape_error.
template <Storage B, class T>
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

/// o[rows[i], :] = x[i, :] in the element type of a KV cache, where rows[i] >= 0
///
/// As scatter_rows, which it is where the cache holds elements of T; a narrower cache needs a
/// backend with a native path.
template <class B, class T, class KV>
requires Computes<B, T>
void append_rows(B& be, matrix_view<KV, space_of<B>> o,
                 std::type_identity_t<matrix_view<const T, space_of<B>>> x,
                 std::type_identity_t<vector_view<const std::int32_t, space_of<B>>> rows) {
  if constexpr (std::is_same_v<T, KV>) {
    scatter_rows<B, T>(be, o, x, rows);
  } else {
    static_assert(B::template native_cache<KV>,
                  "the backend has no caches of another type than its elements");
    expect_shape("append_rows", "rows", rows, {x.extent(0)});
    expect_shape("append_rows", "o", o, {o.extent(0), x.extent(1)});
    expect_contiguous_rows("append_rows", "o", o);
    expect_contiguous_rows("append_rows", "x", x);
    if (!x.empty()) be.append_rows(o, x, rows);
  }
}

/// o[i, :] = x[i, :], rows of a KV cache as elements of T
///
/// What a backend needs that has caches of another type than its elements and no attention of its
/// own: composed attention reads keys and values through this, some rows at a time.
/// @param[out] o  [n, d]; must not alias x
/// @param[in]  x  [n, d]
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T, class KV>
requires Computes<B, T>
void read_rows(B& be, matrix_view<T, space_of<B>> o,
               std::type_identity_t<matrix_view<const KV, space_of<B>>> x) {
  static_assert(B::template native_cache<KV>,
                "the backend has no caches of another type than its elements");
  expect_shape("read_rows", "x", x, o.extents());
  expect_contiguous_rows("read_rows", "o", o);
  expect_contiguous_rows("read_rows", "x", x);
  if (!o.empty()) be.read_rows(o, x);
}

}  // namespace gistkv::ops
