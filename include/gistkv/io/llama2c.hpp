// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/config_check.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/rotary_order.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {

namespace detail {

/// Seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len), then float32
/// arrays, each kind for all layers in one piece.
class llama2c_reader {
 public:
  llama2c_reader(std::span<const std::byte> bytes, const std::string& file)
      : reader_(bytes, file), file_(file) {}

  model::host_model read() {
    model::model_config c = read_config();
    const index_t d_key = c.n_kv_heads * c.head_dim;
    model::host_model m;
    m.token_embedding = matrix("token_embedding", c.n_vocab, c.d_model);
    each(m, c, "attention_norm", &model::host_block::attention_norm, 1, c.d_model);
    each(m, c, "query", &model::host_block::query, c.d_model, c.d_model);
    each(m, c, "key", &model::host_block::key, d_key, c.d_model);
    each(m, c, "value", &model::host_block::value, d_key, c.d_model);
    each(m, c, "output", &model::host_block::output, c.d_model, c.d_model);
    each(m, c, "feed_forward_norm", &model::host_block::feed_forward_norm, 1, c.d_model);
    each(m, c, "gate", &model::host_block::gate, c.d_ff, c.d_model);
    each(m, c, "down", &model::host_block::down, c.d_model, c.d_ff);
    each(m, c, "up", &model::host_block::up, c.d_ff, c.d_model);
    m.final_norm = matrix("final_norm", 1, c.d_model);
    // Cosines and sines of every position; whoever runs the model computes them.
    matrix("rotary_cosines", c.n_context, c.head_dim / 2);
    matrix("rotary_sines", c.n_context, c.head_dim / 2);
    if (!c.tied_head) m.head.weight = matrix("head", c.n_vocab, c.d_model);
    if (reader_.remaining() != 0) {
      reader_.fail(std::to_string(reader_.remaining()) +
                   " bytes are left behind the last tensor, expected none");
    }
    m.config = std::move(c);
    interleaved_to_half_split(m);
    return m;
  }

 private:
  model::model_config read_config() {
    constexpr std::int32_t versioned_magic = 0x616b3432;
    const auto header = reader_.read<std::array<std::int32_t, 7>>("the header");
    if (header[0] == versioned_magic) {
      reader_.fail("a llama2.c file of version " + std::to_string(header[1]) +
                   ", expected one without a version (export version 0)");
    }
    model::model_config c;
    c.architecture = "llama";
    c.d_model = header[0];
    c.d_ff = header[1];
    c.n_layers = header[2];
    c.n_heads = header[3];
    c.n_kv_heads = header[4];
    // The sign tells whether the output head is the embedding table.
    c.tied_head = header[5] > 0;
    c.n_vocab = c.tied_head ? index_t{header[5]} : -index_t{header[5]};
    c.n_context = header[6];
    if (c.n_heads < 1 || c.d_model % c.n_heads != 0) {
      throw format_error(file_ + ": the number of heads is " + std::to_string(c.n_heads) +
                         ", expected a divisor of the model width " + std::to_string(c.d_model));
    }
    c.head_dim = c.d_model / c.n_heads;
    check_config(c, file_);
    if (c.n_vocab < 1)
      throw format_error(file_ + ": the vocabulary size is 0, expected at least 1");
    return c;
  }

  host_matrix matrix(std::string name, index_t rows, index_t cols) {
    // Each extent is below 2^31, so the element count fits; four times it might not.
    const auto n = static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(cols);
    if (n > reader_.remaining() / sizeof(float)) {
      reader_.fail("tensor " + name + " has " + std::to_string(n) + " floats, " +
                   std::to_string(reader_.remaining()) + " bytes are left in the file");
    }
    const auto data = reader_.take(n * sizeof(float), name);
    return {std::move(name), weight_type::f32, rows, cols, data};
  }

  template <class Member>
  void each(model::host_model& m, const model::model_config& c, std::string_view name,
            Member member, index_t rows, index_t cols) {
    for (index_t i = 0; i < c.n_layers; ++i) {
      const auto at = static_cast<std::size_t>(i);
      auto x = matrix(std::string(name) + "." + std::to_string(i), rows, cols);
      if (at == m.blocks.size()) m.blocks.emplace_back();
      if constexpr (requires { (m.blocks[at].*member).weight; }) {
        (m.blocks[at].*member).weight = std::move(x);
      } else {
        m.blocks[at].*member = std::move(x);
      }
    }
  }

  byte_reader reader_;
  std::string file_;
};

}  // namespace detail

/// Reads a llama2.c checkpoint (karpathy/llama2.c, export version 0) that is in memory, borrowed.
/// The query and key rows are copied into half-split rotary order. Rotary base 10000 and epsilon
/// 1e-5 are those of the format.
/// @throws format_error naming file, field and numbers.
inline model::host_model parse_llama2c(std::span<const std::byte> bytes, const std::string& name) {
  return detail::llama2c_reader(bytes, name).read();
}

/// The same of a file, mapped. @throws file_error, format_error.
inline model::host_model load_llama2c(const std::filesystem::path& path) {
  auto mapping = std::make_shared<const mapped_file>(path);
  model::host_model m = parse_llama2c(mapping->bytes(), path.string());
  m.storage.push_back(std::move(mapping));
  return m;
}

}  // namespace gistkv::io
