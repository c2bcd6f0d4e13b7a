// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/gmsa/group_merge.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/lora.hpp>

namespace gistkv::gmsa {

/// A compressor in host memory.
struct host_compressor {
  model::host_model encoder;    ///< The first layers and the final norm, LoRA merged in; a table.
  model::host_model alignment;  ///< Layers and final norm that make soft tokens of merged rows;
                                ///< no layers: `linear` does, or nothing where that is empty.
  model::host_linear linear;    ///< [d_model, d_model]
  gmsa::merging merging = gmsa::merging::mean;
  host_matrix slots;  ///< [n, d_model], kept by the encoder; empty: groups are merged (slots_for).
};

/// All of GMSA in host memory, LoRA apart from what it is added to: what checkpoints hold.
struct host_parts {
  model::host_model decoder;
  std::vector<model::low_rank> decoder_lora;  ///< Of some of its maps, or none.
  double decoder_lora_alpha = 0;              ///< Of these.
  model::host_model encoder;
  std::vector<model::low_rank> encoder_lora;  ///< Of all maps of the encoder, or none.
  double lora_alpha = 0;                      ///< Of these.
  model::host_model alignment;
  model::host_linear linear;  ///< Used where the alignment has no layers.
  gmsa::merging merging = gmsa::merging::mean;
  host_matrix slots;  ///< As in a compressor.
};

/// Merges LoRA into the encoder. @throws as model::merge_lora.
inline host_compressor compressor_of(const host_parts& parts) {
  host_compressor c{parts.encoder, parts.alignment, parts.linear, parts.merging, parts.slots};
  model::merge_lora(c.encoder, parts.encoder_lora, parts.lora_alpha);
  return c;
}

/// Learned slots that stand behind a context of n tokens in what the encoder reads: one for each
/// group that it makes, slot i being row i of the table. What the encoder makes of them takes the
/// place of merged rows. That is the ordinary way to compress into soft tokens (AutoCompressor,
/// arXiv 2305.14788; ICAE, arXiv 2307.06945), to compare group merging with.
/// @param slots  0: groups are merged, and nothing stands behind a context
/// @throws argument_error for a merge size below 1, and where there are too few slots.
inline index_t slots_for(index_t n, index_t merge_size, index_t slots) {
  const index_t want = slots > 0 ? merged_rows(n, merge_size) : 0;
  if (want <= slots) return want;
  throw argument_error("gmsa: a context of " + std::to_string(n) + " tokens at rate " +
                       std::to_string(merge_size) + " wants " + std::to_string(want) +
                       " slots, the compressor has " + std::to_string(slots));
}

/// Merges LoRA into the decoder. @throws as model::merge_lora.
inline model::host_model decoder_of(const host_parts& parts) {
  model::host_model decoder = parts.decoder;
  model::merge_lora(decoder, parts.decoder_lora, parts.decoder_lora_alpha);
  return decoder;
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
  index_t alignment_layers = 1;  ///< 0: merged rows are soft tokens as they are.
};

/// Where training begins: the encoder is the first layers of the model, the alignment a copy of the
/// decoder's. What such a compressor makes is not yet what the decoder understands.
/// @throws argument_error unless the model has so many layers.
inline host_parts untrained_parts(const model::host_model& m, const compressor_shape& shape = {}) {
  host_parts parts;
  parts.decoder = m;
  parts.encoder = first_layers(m, shape.encoder_layers);
  parts.encoder.token_embedding = m.token_embedding;
  if (shape.alignment_layers > 0) parts.alignment = first_layers(m, shape.alignment_layers);
  return parts;
}

/// Gives the encoder n slots that are distributed as the rows of its table are.
/// @throws argument_error for n below 1, and for an encoder without a table.
inline void add_slots(host_parts& parts, index_t n, std::uint64_t seed) {
  if (n < 1) {
    throw argument_error("gmsa: " + std::to_string(n) + " slots are asked for, expected 1 or more");
  }
  if (parts.encoder.token_embedding.empty()) {
    throw argument_error("gmsa: the encoder has no table to draw slots from");
  }
  auto memory = std::make_shared<std::vector<float>>(
      model::untrained_gist_rows(parts.encoder, n, seed).input);
  parts.slots = {"slots", weight_type::f32, n, parts.encoder.config.d_model,
                 std::as_bytes(std::span<const float>(*memory))};
  parts.encoder.storage.push_back(std::move(memory));
}

/// Draws the maps of the alignment's layers anew, normal numbers of variance 1 / inputs, and sets
/// its norms to 1: what is lost where it does not begin as layers of the decoder.
inline void randomise_alignment(host_parts& parts, std::uint64_t seed) {
  random_generator random(splitmix64(seed));
  auto memory = std::make_shared<std::vector<std::vector<float>>>();
  const auto fill = [&](host_matrix& m, bool draw) {
    if (m.empty()) return;
    std::vector<float>& values =
        memory->emplace_back(static_cast<std::size_t>(m.rows * m.cols), 1.0F);
    const double deviation = 1.0 / std::sqrt(static_cast<double>(m.cols));
    for (float& x : values) {
      if (draw) x = static_cast<float>(deviation * random.normal());
    }
    m.type = weight_type::f32;
    m.data = std::as_bytes(std::span<const float>(values));
  };
  for (model::host_block& b : parts.alignment.blocks) {
    for (const auto& m : model::linear_maps(b)) fill(m.map->weight, true);
    for (host_matrix* norm :
         {&b.attention_norm, &b.feed_forward_norm, &b.query_norm, &b.key_norm}) {
      fill(*norm, false);
    }
  }
  parts.alignment.storage.push_back(std::move(memory));
}

}  // namespace gistkv::gmsa
