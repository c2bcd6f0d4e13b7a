// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>

namespace gistkv::gmsa {

/// A compressor in host memory.
struct host_compressor {
  model::host_model encoder;    ///< The first layers and the final norm, LoRA merged in; a table.
  model::host_model alignment;  ///< Layers and final norm that make soft tokens of merged rows;
                                ///< no layers: `linear` does.
  model::host_linear linear;    ///< [d_model, d_model]
};

/// All of GMSA in host memory, LoRA apart from what it is added to: what checkpoints hold.
struct host_parts {
  model::host_model decoder;
  model::host_model encoder;
  std::vector<model::block_lora> encoder_lora;  ///< One a layer of the encoder, or none.
  double lora_alpha = 0;                        ///< Of these; scale = alpha / rank.
  model::host_model alignment;
  model::host_linear linear;  ///< Used where the alignment has no layers.
};

/// Merges LoRA into the encoder. @throws shape_error as model::merge_lora.
inline host_compressor compressor_of(const host_parts& parts) {
  host_compressor c{parts.encoder, parts.alignment, parts.linear};
  if (!parts.encoder_lora.empty()) model::merge_lora(c.encoder, parts.encoder_lora);
  return c;
}

/// Layers 0 to n - 1 of a model and its final norm, without table and head.
/// @throws argument_error unless the model has so many layers.
inline model::host_model first_layers(const model::host_model& m, index_t n) {
  if (n < 1 || n > m.config.n_layers) {
    throw argument_error("gmsa: " + std::to_string(n) + " layers are asked for, the model has " +
                         std::to_string(m.config.n_layers));
  }
  model::host_model part;
  part.config = m.config;
  part.config.n_layers = n;
  part.config.tied_head = false;
  part.blocks.assign(m.blocks.begin(), m.blocks.begin() + n);
  part.final_norm = m.final_norm;
  part.storage = m.storage;
  return part;
}

struct compressor_shape {
  index_t encoder_layers = 8;
  index_t alignment_layers = 1;
};

/// Where training begins: the encoder is the first layers of the model, the alignment a copy of the
/// decoder's. What such a compressor makes is not yet what the decoder understands.
/// @throws argument_error unless the model has so many layers.
inline host_parts untrained_parts(const model::host_model& m, const compressor_shape& shape = {}) {
  host_parts parts;
  parts.decoder = m;
  parts.encoder = first_layers(m, shape.encoder_layers);
  parts.encoder.token_embedding = m.token_embedding;
  parts.alignment = first_layers(m, shape.alignment_layers);
  return parts;
}

}  // namespace gistkv::gmsa
