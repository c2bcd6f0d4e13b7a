// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// o[i, j] = a[i, j] + b[i, j]
///
/// @param[out] o     [n, d]; may be a or b
/// @param[in]  a, b  [n, d]; a row stride of 0 repeats one row (repeat_rows)
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void add(B& be, matrix_view<T, space_of<B>> o,
         std::type_identity_t<matrix_view<const T, space_of<B>>> a,
         std::type_identity_t<matrix_view<const T, space_of<B>>> b) {
  expect_shape("add", "a", a, o.extents());
  expect_shape("add", "b", b, o.extents());
  expect_contiguous_rows("add", "o", o);
  expect_contiguous_rows("add", "a", a);
  expect_contiguous_rows("add", "b", b);
  if (!o.empty()) be.add(o, a, b);
}

}  // namespace gistkv::ops
