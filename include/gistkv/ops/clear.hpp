// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>
#include <gistkv/ops/matmul.hpp>

namespace gistkv::ops {

/// x <- 0; by uploads where the backend has no `clear` of bytes. @throws shape_error.
template <Storage B, class T>
void clear(B& be, vector_view<T, space_of<B>> x) {
  expect_contiguous_rows("clear", "x", x);
  if (x.empty()) return;
  const auto n = static_cast<std::size_t>(x.extent(0));
  if constexpr (requires { be.clear(x.data(), n * sizeof(T)); }) {
    be.clear(x.data(), n * sizeof(T));
  } else {
    constexpr std::size_t piece = 1 << 16;
    const std::vector<T> zeros(std::min(piece, n), T(0));
    for (std::size_t begin = 0; begin < n; begin += piece) {
      be.upload(x.data() + begin, zeros.data(), std::min(piece, n - begin) * sizeof(T));
    }
  }
}

/// x <- 0, without an allocation: as the empty product where the backend has no `clear`, or rows
/// lie apart. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void clear(B& be, matrix_view<T, space_of<B>> x) {
  if (x.empty()) return;
  if constexpr (requires { be.clear(x.data(), sizeof(T)); }) {
    if (x.dense()) return be.clear(x.data(), static_cast<std::size_t>(x.size()) * sizeof(T));
  }
  const tensor_view<const T, 3, space_of<B>> left(x.data(), {1, x.extent(0), 0});
  const tensor_view<const T, 3, space_of<B>> right(x.data(), {1, 0, x.extent(1)});
  const tensor_view<T, 3, space_of<B>> to(x.data(), {1, x.extent(0), x.extent(1)},
                                          {0, x.stride(0), x.stride(1)});
  matmul<B, T>(be, to, left, right);
}

}  // namespace gistkv::ops
