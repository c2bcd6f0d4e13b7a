// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include <gistkv/core/backend.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/append.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>

/// The two halves of a block up to their first products, each as one call: what a backend may fuse
/// where a step has few rows and the calls would cost more than their work.

namespace gistkv {

template <class B, class T>
struct norm_call {
  vector_view<const T, space_of<B>> weight = {};
  norm_options options = {};
};

/// A constant weight and its bias, which may be empty.
template <class B, class T>
struct linear_call {
  const packed_weight_t<B>* w = nullptr;
  vector_view<const T, space_of<B>> bias = {};
};

/// Queries, keys and values of normed rows, as attention takes them.
template <class B, class T>
struct projection_call {
  tensor_view<T, 3, space_of<B>> q = {};  ///< [n, n_heads, head_dim]
  tensor_view<T, 3, space_of<B>> k = {};  ///< [n, n_kv_heads, head_dim]
  tensor_view<T, 3, space_of<B>> v = {};
  matrix_view<const T, space_of<B>> x = {};  ///< [n, d_model]
  norm_call<B, T> norm = {};
  std::array<linear_call<B, T>, 3> maps = {};  ///< Of q, k and v.
  vector_view<const std::int32_t, space_of<B>> positions = {};
  vector_view<const float, space_of<B>> frequencies = {};
  rope_options rope = {};
};

/// act(gate(norm(x))) * up(norm(x))
template <class B, class T>
struct gated_call {
  matrix_view<T, space_of<B>> o = {};        ///< [n, d_ff]
  matrix_view<const T, space_of<B>> x = {};  ///< [n, d_model]
  norm_call<B, T> norm = {};
  linear_call<B, T> gate = {};
  linear_call<B, T> up = {};
  activation_kind kind = activation_kind::silu;
};

}  // namespace gistkv

namespace gistkv::composed {

/// @param[out] y  [n, d_model], for normed x
template <class B, class T, KvAppend<space_of<B>> S>
void project(B& be, const projection_call<B, T>& p, std::span<const S> sequences,
             matrix_view<T, space_of<B>> y) {
  ops::norm<B, T>(be, y, p.x, p.norm.weight, {}, p.norm.options);
  const std::array outputs{p.q, p.k, p.v};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const matrix_view<T, space_of<B>> o(outputs[i].data(), {y.extent(0), p.maps[i].w->rows()});
    ops::linear<B, T>(be, o, y, *p.maps[i].w, p.maps[i].bias);
  }
  ops::rope<B, T>(be, p.q, p.positions, p.frequencies, p.rope);
  ops::rope<B, T>(be, p.k, p.positions, p.frequencies, p.rope);
  ops::append<B, T>(be, p.k, p.v, sequences);
}

/// @param[out] y   [n, d_model], for normed x
/// @param[out] up  [n, d_ff]
template <class B, class T>
void gated(B& be, const gated_call<B, T>& g, matrix_view<T, space_of<B>> y,
           matrix_view<T, space_of<B>> up) {
  ops::norm<B, T>(be, y, g.x, g.norm.weight, {}, g.norm.options);
  ops::linear<B, T>(be, g.o, y, *g.gate.w, g.gate.bias);
  ops::linear<B, T>(be, up, y, *g.up.w, g.up.bias);
  ops::activation<B, T>(be, g.o, g.o, up, g.kind);
}

}  // namespace gistkv::composed

namespace gistkv::ops {

namespace detail {

/// @throws shape_error naming `op`.
template <class B, class T>
void check_map(const char* op, const linear_call<B, T>& map, index_t rows, index_t cols) {
  if (map.w->rows() != rows || map.w->cols() != cols) {
    throw shape_error(std::string(op) + ": a weight is [" + std::to_string(map.w->rows()) + ", " +
                      std::to_string(map.w->cols()) + "], expected [" + std::to_string(rows) +
                      ", " + std::to_string(cols) + "]");
  }
  if (!map.bias.empty()) expect_shape(op, "bias", map.bias, {rows});
}

}  // namespace detail

/// Does the backend take n rows of width d to heads, or rows, of that width in one call?
template <class B>
bool takes_few_rows(const B& be, index_t n, index_t d, index_t width) {
  if constexpr (B::native_few_rows) {
    return be.few_rows(n, d, width);
  } else {
    return false;
  }
}

/// norm, linear and its bias, rope of q and k, append; the calls that it stands for are their
/// composition. Backends round in between or not.
///
/// Precondition: takes_few_rows(be, n, d_model, head_dim). Asynchronous. Allocates: no. @throws
/// shape_error.
template <class B, class T, KvAppend<space_of<B>> S>
requires Computes<B, T> && B::native_few_rows void project(B& be, const projection_call<B, T>& p,
                                                           std::span<const S> sequences) {
  const index_t n = p.x.extent(0);
  expect_shape("project", "norm weight", p.norm.weight, {p.x.extent(1)});
  expect_shape("project", "positions", p.positions, {n});
  expect_shape("project", "frequencies", p.frequencies, {p.q.extent(2) / 2});
  detail::check_append("project", p.k, p.v, sequences);
  if (static_cast<index_t>(sequences.size()) > n) {
    throw shape_error("project: " + std::to_string(sequences.size()) + " sequences of " +
                      std::to_string(n) + " rows, expected one row each at least");
  }
  const std::array outputs{p.q, p.k, p.v};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto& o = outputs[i];
    const linear_call<B, T>& map = p.maps[i];
    expect_shape("project", "output", o, {n, o.extent(1), p.q.extent(2)});
    detail::check_map("project", map, o.extent(1) * o.extent(2), p.x.extent(1));
    expect_contiguous_rows("project", "output", o);
  }
  expect_contiguous_rows("project", "x", p.x);
  be.project(p, sequences);
}

/// norm, two linears and their biases, activation, as `project`.
///
/// Precondition: takes_few_rows(be, n, d_model, d_ff). Asynchronous. Allocates: no.
/// @throws shape_error.
template <class B, class T>
requires Computes<B, T> && B::native_few_rows void gated(B& be, const gated_call<B, T>& g) {
  expect_shape("gated", "norm weight", g.norm.weight, {g.x.extent(1)});
  expect_shape("gated", "o", g.o, {g.x.extent(0), g.gate.w->rows()});
  for (const linear_call<B, T>& map : std::array{g.gate, g.up}) {
    detail::check_map("gated", map, g.o.extent(1), g.x.extent(1));
  }
  expect_contiguous_rows("gated", "o", g.o);
  expect_contiguous_rows("gated", "x", g.x);
  be.gated(g);
}

}  // namespace gistkv::ops
