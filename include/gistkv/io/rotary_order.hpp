// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {

/// Brings the query and key rows of a model whose file interleaves rotary pairs (components 2j and
/// 2j + 1 of a head rotate together) into half-split order (j and j + head_dim / 2), in which the
/// library computes.
///
/// Row h head_dim + s head_dim / 2 + j of the result is row h head_dim + 2 j + s of the file, s in
/// {0, 1}. Whole rows move as they are stored, and blocks of quantised weights lie inside a row, so
/// the step is exact. The rows move into memory of the model's own, which `storage` keeps.
/// @throws format_error for biases in a block type, whose elements cannot be moved one by one.
inline void interleaved_to_half_split(model::host_model& m) {
  const index_t head_dim = m.config.head_dim;
  auto moved = std::make_shared<std::vector<std::vector<std::byte>>>();
  auto permute = [&](host_matrix& x, index_t n_items, std::size_t item_bytes) {
    std::vector<std::byte> bytes(x.data.size());
    for (index_t to = 0; to < n_items; ++to) {
      const index_t in_head = to % head_dim;
      const index_t s = in_head / (head_dim / 2);
      const index_t j = in_head % (head_dim / 2);
      const index_t from = to - in_head + 2 * j + s;
      std::memcpy(bytes.data() + static_cast<std::size_t>(to) * item_bytes,
                  x.data.data() + static_cast<std::size_t>(from) * item_bytes, item_bytes);
    }
    moved->push_back(std::move(bytes));
    x.data = moved->back();
  };
  auto permute_linear = [&](model::host_linear& linear) {
    permute(linear.weight, linear.weight.rows, row_bytes(linear.weight.type, linear.weight.cols));
    if (linear.bias.empty()) return;
    if (block_length(linear.bias.type) != 1) {
      throw format_error("tensor '" + linear.bias.name + "' has type " +
                         std::string(to_string(linear.bias.type)) +
                         ", expected f32, f16 or bf16 for a bias");
    }
    permute(linear.bias, linear.bias.cols, row_bytes(linear.bias.type, 1));
  };
  for (model::host_block& block : m.blocks) {
    permute_linear(block.query);
    permute_linear(block.key);
  }
  m.storage.push_back(std::move(moved));
}

}  // namespace gistkv::io
