// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include <gistkv/core/error.hpp>
#include <gistkv/core/tensor_view.hpp>

namespace gistkv::ops {

template <std::size_t Rank>
std::string to_string(const std::array<index_t, Rank>& extents) {
  std::string text = "[";
  for (std::size_t d = 0; d < Rank; ++d) {
    if (d > 0) text += ", ";
    text += std::to_string(extents[d]);
  }
  return text + "]";
}

/// @throws shape_error "<op>: <argument> is [found], expected [wanted]" unless they are equal.
template <class T, std::size_t Rank, class Space>
void expect_shape(std::string_view op, std::string_view argument,
                  const tensor_view<T, Rank, Space>& found,
                  const std::array<index_t, Rank>& wanted) {
  if (found.extents() == wanted) return;
  throw shape_error(std::string(op) + ": " + std::string(argument) + " is " +
                    to_string(found.extents()) + ", expected " + to_string(wanted));
}

/// @throws shape_error unless the elements of the last dimension lie side by side.
template <class T, std::size_t Rank, class Space>
void expect_contiguous_rows(std::string_view op, std::string_view argument,
                            const tensor_view<T, Rank, Space>& found) {
  if (found.last_contiguous()) return;
  throw shape_error(std::string(op) + ": " + std::string(argument) + " has a last stride of " +
                    std::to_string(found.stride(Rank - 1)) + ", expected 1");
}

/// Calls of one batch have queries of one number of heads and one head dimension, on equally many
/// KV heads. @throws shape_error.
template <class Calls>
void expect_same_heads(std::string_view op, const Calls& calls) {
  for (const auto& c : calls) {
    const auto& first = calls.front();
    expect_shape(op, "q", c.q, {c.q.extent(0), first.q.extent(1), first.q.extent(2)});
    if (c.kv.n_kv_heads() != first.kv.n_kv_heads()) {
      throw shape_error(std::string(op) + ": " + std::to_string(c.kv.n_kv_heads()) +
                        " KV heads beside " + std::to_string(first.kv.n_kv_heads()));
    }
  }
}

}  // namespace gistkv::ops
