// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv {

/// The shape of SmolLM2-135M.
inline model::model_config config_135m() {
  model::model_config c;
  c.n_layers = 30;
  c.d_model = 576;
  c.n_heads = 9;
  c.n_kv_heads = 3;
  c.head_dim = 64;
  c.d_ff = 1536;
  c.n_vocab = 49152;
  c.tied_head = true;
  return c;
}

/// All weights are the same random numbers: as many as the largest needs.
inline model::host_model random_model(const model::model_config& c) {
  const index_t widest = std::max(c.d_ff, c.n_heads * c.head_dim);
  const auto n = static_cast<std::size_t>(std::max(c.n_vocab, widest) * c.d_model);
  auto numbers = std::make_shared<std::vector<bf16>>(n);
  random_generator random(1);
  for (bf16& x : *numbers) x = bf16(0.04F * static_cast<float>(random.uniform() - 0.5));
  const auto matrix = [&](const char* name, index_t rows, index_t cols) {
    return host_matrix{name, weight_type::bf16, rows, cols,
                       std::as_bytes(std::span<const bf16>(*numbers))};
  };
  model::host_model m;
  m.config = c;
  m.token_embedding = matrix("embedding", c.n_vocab, c.d_model);
  model::host_block b;
  b.attention_norm = b.feed_forward_norm = m.final_norm = matrix("norm", 1, c.d_model);
  b.query = {matrix("q", c.n_heads * c.head_dim, c.d_model), {}};
  b.key = b.value = {matrix("kv", c.n_kv_heads * c.head_dim, c.d_model), {}};
  b.output = {matrix("o", c.d_model, c.n_heads * c.head_dim), {}};
  b.gate = b.up = {matrix("gate", c.d_ff, c.d_model), {}};
  b.down = {matrix("down", c.d_model, c.d_ff), {}};
  m.blocks.assign(static_cast<std::size_t>(c.n_layers), b);
  m.storage.push_back(numbers);
  return m;
}

}  // namespace gistkv
