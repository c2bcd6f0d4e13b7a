// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::model {

/// A linear map y = W x + b as a file holds it; `bias` may be empty.
struct host_linear {
  host_matrix weight;  ///< [out, in]
  host_matrix bias;    ///< [1, out]
};

struct host_block {
  host_matrix attention_norm;     ///< [1, d_model]
  host_linear query;              ///< [n_heads * head_dim, d_model]
  host_linear key;                ///< [n_kv_heads * head_dim, d_model]
  host_linear value;              ///< [n_kv_heads * head_dim, d_model]
  host_matrix query_norm;         ///< [1, head_dim], per head before rotation; may be empty
  host_matrix key_norm;           ///< [1, head_dim]; may be empty
  host_linear output;             ///< [d_model, n_heads * head_dim]
  host_matrix feed_forward_norm;  ///< [1, d_model]
  host_linear gate;               ///< [d_ff, d_model]
  host_linear up;                 ///< [d_ff, d_model]
  host_linear down;               ///< [d_model, d_ff]
};

/// Weights of a model in host memory, usually borrowed from a mapped file that `storage` keeps.
///
/// Rows of query and key are in half-split rotary order: in each head, components j and
/// j + head_dim / 2 form rotation pair j (the order of Hugging Face). A reader of a file with
/// interleaved pairs (Llama in GGUF) permutes the rows.
struct host_model {
  model_config config;
  host_matrix token_embedding;  ///< [n_vocab, d_model]
  std::vector<host_block> blocks;
  host_matrix final_norm;  ///< [1, d_model]
  host_linear head;        ///< [n_vocab, d_model]; weight empty when config.tied_head
  std::vector<std::shared_ptr<const void>> storage;
};

/// @throws as validate(model_config), and shape_error for another number of blocks than it says.
inline void validate(const host_model& m) {
  validate(m.config);
  if (static_cast<index_t>(m.blocks.size()) == m.config.n_layers) return;
  throw shape_error("model: " + std::to_string(m.blocks.size()) + " blocks, expected " +
                    std::to_string(m.config.n_layers));
}

}  // namespace gistkv::model
