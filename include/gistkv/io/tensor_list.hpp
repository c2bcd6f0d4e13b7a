// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/quantize.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>

namespace gistkv::io {

/// Tensors to be written, and the memory of those that had to be converted.
class tensor_list {
 public:
  /// @throws argument_error unless the type is f32, bf16 or f16.
  explicit tensor_list(weight_type type) : type_(type), stored_(stored_type(type)) {}

  /// @param extents  empty: those of the matrix, [rows, cols]
  /// @throws shape_error for another number of bytes than that of the matrix's extents.
  void add(std::string name, const host_matrix& m, std::vector<index_t> extents = {}) {
    if (extents.empty()) extents = {m.rows, m.cols};
    expect_whole(name, m);
    const auto n_rows = static_cast<std::size_t>(m.rows);
    std::span<const std::byte> data = m.data;
    if (m.type != type_) {
      std::vector<std::byte>& bytes = memory_.emplace_back();
      const std::size_t stride = row_bytes(type_, m.cols);
      bytes.resize(stride * n_rows);
      std::vector<float> row(static_cast<std::size_t>(m.cols));
      for (index_t r = 0; r < m.rows; ++r) {
        dequantize_row(m, r, row.data());
        quantize(type_, row.data(), m.cols, bytes.data() + static_cast<std::size_t>(r) * stride);
      }
      data = bytes;
    }
    tensors_.push_back({std::move(name), stored_, std::move(extents), data});
  }
  /// A vector: one extent. An empty one is nothing.
  void add_vector(std::string name, const host_matrix& m) {
    if (!m.empty()) add(std::move(name), m, {m.cols});
  }

  std::span<const safetensors_tensor> tensors() const { return tensors_; }

 private:
  static void expect_whole(const std::string& name, const host_matrix& m) {
    const std::size_t row = row_bytes(m.type, m.cols);
    const std::size_t n_rows = row == 0 ? 0 : m.data.size() / row;  // A product may not be counted.
    const bool whole = row == 0 || static_cast<index_t>(n_rows) == m.rows;
    if (m.rows >= 0 && whole && m.data.size() == n_rows * row) return;
    throw shape_error("tensor " + quote(name) + ": " + std::to_string(m.data.size()) +
                      " bytes, expected " + std::to_string(m.rows) + " rows of " +
                      std::to_string(row));
  }
  static safetensors_type stored_type(weight_type type) {
    switch (type) {
      case weight_type::f32:
        return safetensors_type::f32;
      case weight_type::bf16:
        return safetensors_type::bf16;
      case weight_type::f16:
        return safetensors_type::f16;
      default:
        throw argument_error("safetensors: a type to write is " + std::string(to_string(type)) +
                             ", expected f32, bf16 or f16");
    }
  }

  weight_type type_;
  safetensors_type stored_;
  std::vector<safetensors_tensor> tensors_;
  std::deque<std::vector<std::byte>> memory_;
};

/// Adds a block with Hugging Face names behind `before`; maps keep their plain name + `stored`.
inline void add_block(tensor_list& list, const std::string& before, const model::host_block& b,
                      std::string_view stored = {}) {
  for (const auto& [target, name, map] : model::linear_maps(b)) {
    const std::string full = before + std::string(name) + std::string(stored);
    list.add(full + ".weight", map->weight);
    list.add_vector(full + ".bias", map->bias);
  }
  const auto norm = [&](std::string_view part, const host_matrix& m) {
    list.add_vector(before + std::string(part) + ".weight", m);
  };
  norm(hugging_face_names.query_norm, b.query_norm);
  norm(hugging_face_names.key_norm, b.key_norm);
  norm(hugging_face_names.attention_norm, b.attention_norm);
  norm(hugging_face_names.feed_forward_norm, b.feed_forward_norm);
}

}  // namespace gistkv::io
