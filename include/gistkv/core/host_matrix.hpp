// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// How the elements of a stored weight matrix are encoded. The block types are those of GGUF.
enum class weight_type { f32, f16, bf16, q8_0, q4_0, q4_1, q4_k, q5_k, q6_k };

/// A constant matrix in host memory, row by row, as a model file holds it: `rows` outputs,
/// `cols` inputs, row r at byte r * row_bytes(type, cols). Borrows its bytes. A vector has one row.
struct host_matrix {
  std::string name;  ///< Tensor name, for errors.
  weight_type type = weight_type::f32;
  index_t rows = 0;
  index_t cols = 0;
  std::span<const std::byte> data = {};

  bool empty() const { return rows == 0 || cols == 0; }
};

}  // namespace gistkv
