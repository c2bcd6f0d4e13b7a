// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/check.hpp>

namespace gistkv::ops {

/// o[i, j] = act(gate[i, j]) * up[i, j], or act(gate[i, j]) where `up` is empty
///
/// act is silu, gelu or gelu_tanh (core/op_options.hpp); SwiGLU is the gated form with silu
/// (Shazeer 2020). Large |x| must not overflow: act(-inf side) is 0, act(+inf side) is x.
/// @param[out] o         [n, d]; may be gate or up
/// @param[in]  gate, up  [n, d]
/// Asynchronous. Allocates: no. @throws shape_error.
template <class B, class T>
requires Computes<B, T>
void activation(B& be, matrix_view<T, space_of<B>> o,
                std::type_identity_t<matrix_view<const T, space_of<B>>> gate,
                std::type_identity_t<matrix_view<const T, space_of<B>>> up, activation_kind kind) {
  expect_shape("activation", "gate", gate, o.extents());
  if (!up.empty()) expect_shape("activation", "up", up, o.extents());
  expect_contiguous_rows("activation", "o", o);
  expect_contiguous_rows("activation", "gate", gate);
  expect_contiguous_rows("activation", "up", up);
  if (!o.empty()) be.activation(o, gate, up, kind);
}

}  // namespace gistkv::ops
