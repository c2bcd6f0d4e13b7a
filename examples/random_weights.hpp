// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/model/host_model.hpp>

/// A transformer of random numbers, in the form that a model file is read into. It knows nothing
/// and computes like any other: enough to show how the parts fit together without a download.
inline gistkv::model::host_model random_model(gistkv::index_t n_layers, gistkv::index_t n_vocab) {
  using gistkv::index_t;
  // A host_matrix borrows its bytes; the model's `storage` keeps them.
  auto numbers = std::make_shared<std::deque<std::vector<float>>>();
  gistkv::random_generator random(2026);
  auto matrix = [&](const char* name, index_t rows, index_t cols, double scale) {
    std::vector<float>& x = numbers->emplace_back();
    for (index_t i = 0; i < rows * cols; ++i)
      x.push_back(static_cast<float>(scale * random.normal()));
    return gistkv::host_matrix{name, gistkv::weight_type::f32, rows, cols,
                               std::as_bytes(std::span<const float>(x))};
  };
  auto linear = [&](const char* name, index_t out, index_t in) {
    return gistkv::model::host_linear{matrix(name, out, in, 1 / std::sqrt(static_cast<double>(in))),
                                      {}};
  };
  gistkv::model::host_model m;
  m.config.architecture = "random";
  m.config.n_layers = n_layers;
  m.config.d_model = 32;
  m.config.n_heads = 4;
  m.config.n_kv_heads = 2;
  m.config.head_dim = 8;
  m.config.d_ff = 64;
  m.config.n_vocab = n_vocab;
  m.config.tied_head = true;
  const auto& c = m.config;
  m.token_embedding = matrix("embedding", n_vocab, c.d_model, 1);
  for (index_t l = 0; l < n_layers; ++l) {
    gistkv::model::host_block b;
    b.attention_norm = matrix("attention norm", 1, c.d_model, 1);
    b.query = linear("query", c.n_heads * c.head_dim, c.d_model);
    b.key = linear("key", c.n_kv_heads * c.head_dim, c.d_model);
    b.value = linear("value", c.n_kv_heads * c.head_dim, c.d_model);
    b.output = linear("output", c.d_model, c.n_heads * c.head_dim);
    b.feed_forward_norm = matrix("feed-forward norm", 1, c.d_model, 1);
    b.gate = linear("gate", c.d_ff, c.d_model);
    b.up = linear("up", c.d_ff, c.d_model);
    b.down = linear("down", c.d_model, c.d_ff);
    m.blocks.push_back(b);
  }
  m.final_norm = matrix("final norm", 1, c.d_model, 1);
  m.storage.push_back(numbers);
  return m;
}
