// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// s[h, i, j] <- exp(scale s[h, i, j] - lse[h, i]) where mask(i, j), else 0
/// lse[h, i]   = ln sum over visible j of exp(scale s[h, i, j])
///
/// In place. The row maximum is always subtracted first. A row that sees no key becomes all 0 with
/// lse = -inf; scores of masked keys may be anything, NaN included. lse is the natural logarithm.
/// @param[in,out] s     [n_heads, n_q, n_k]
/// @param[in]     mask  predicate on (i, j), the same for all heads
/// @param[out]    lse   [n_heads, n_q], or empty
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T, AttentionMask M>
requires Computes<B, T>
void masked_softmax(B& be, tensor_view<T, 3, space_of<B>> s, const M& mask,
                    const softmax_options& options,
                    std::type_identity_t<matrix_view<T, space_of<B>>> lse = {}) {
  if (!lse.empty()) expect_shape("masked_softmax", "lse", lse, {s.extent(0), s.extent(1)});
  expect_contiguous_rows("masked_softmax", "s", s);
  if (s.extent(0) > 0 && s.extent(1) > 0) be.masked_softmax(s, mask, options, lse);
}

}  // namespace gistkv::ops
