// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// o[i, j] = sum_k x[i, k] w[j, k]
///
/// The product of an activation with a constant weight that `be.pack` has laid out; `w.rows()` and
/// `w.cols()` are its extents, whatever its storage. Sums are carried in accumulate_t<T>.
/// @param[out] o  [n, rows of w]; rows may be strided; must not alias x
/// @param[in]  x  [n, columns of w]; rows may be strided
/// n = 0 does nothing. Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void linear(B& be, matrix_view<T, space_of<B>> o,
            std::type_identity_t<matrix_view<const T, space_of<B>>> x,
            const packed_weight_t<B>& w) {
  expect_shape("linear", "x", x, {x.extent(0), w.cols()});
  expect_shape("linear", "o", o, {x.extent(0), w.rows()});
  expect_contiguous_rows("linear", "x", x);
  expect_contiguous_rows("linear", "o", o);
  if (!o.empty()) be.linear(o, x, w);
}

/// o = x w^T + bias, bias [rows of w] added to every row; an empty bias adds nothing.
template <class B, class T>
requires Computes<B, T>
void linear(B& be, matrix_view<T, space_of<B>> o,
            std::type_identity_t<matrix_view<const T, space_of<B>>> x, const packed_weight_t<B>& w,
            std::type_identity_t<vector_view<const T, space_of<B>>> bias) {
  linear(be, o, x, w);
  if (!bias.empty()) add(be, o, o, repeat_rows(bias, o.extent(0)));
}

/// o = x w^T for every output: query, key and value of one layer, gate and up of another.
///
/// As `linear` for each; a backend with a native path reads and rounds x once, and hands the work
/// out once.
/// @param[in] coarse  rows of x that it may round to 8 bits with a scale for 32 neighbours, where
///                    that saves time: those of which only keys and values are needed
template <class B, class T>
requires Computes<B, T>
void linears(B& be, std::span<const linear_output<B, T>> outputs,
             std::type_identity_t<matrix_view<const T, space_of<B>>> x, row_range coarse = {}) {
  if (coarse.begin < 0 || coarse.begin > coarse.end || coarse.end > x.extent(0)) {
    throw shape_error("linears: coarse rows " + std::to_string(coarse.begin) + " to " +
                      std::to_string(coarse.end) + " of " + std::to_string(x.extent(0)));
  }
  if constexpr (B::native_linears) {
    expect_contiguous_rows("linears", "x", x);
    for (const auto& to : outputs) {
      expect_shape("linears", "x", x, {x.extent(0), to.w->cols()});
      expect_shape("linears", "o", to.o, {x.extent(0), to.w->rows()});
      expect_contiguous_rows("linears", "o", to.o);
    }
    if (!outputs.empty() && x.extent(0) > 0) be.linears(outputs, x, coarse);
  } else {
    for (const auto& to : outputs) linear<B, T>(be, to.o, x, *to.w);
  }
}

}  // namespace gistkv::ops
