// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/gmsa/trainable.hpp>
#include <gistkv/gmsa/weights.hpp>

namespace gistkv::gmsa {

/// What training has made of the parts it began with: LoRA and slots of the encoder and the
/// alignment's layers of stage 1, the decoder's weights or LoRA of stage 2, LoRA that it had before
/// being merged where weights are trained. What was not trained is that of
/// `start`; the rest lies in memory that the result keeps.
template <class B, class T>
host_parts trained_parts(trainable_gmsa<B, T>& m, const host_parts& start) {
  host_parts parts = start;
  auto memory = std::make_shared<std::vector<std::vector<float>>>();
  const auto keep = [&memory](std::vector<float> values, index_t rows, index_t cols,
                              const std::string& name) {
    memory->push_back(std::move(values));
    return host_matrix{name, weight_type::f32, rows, cols,
                       std::as_bytes(std::span<const float>(memory->back()))};
  };
  if (m.options().stage == stage::restoring) {
    parts.lora_alpha = m.options().lora.alpha;
    parts.encoder_lora = m.lora();
  } else if (m.options().stage == stage::decoder_lora) {
    parts.decoder_lora_alpha = m.options().decoder_lora.alpha;
    parts.decoder_lora = m.lora();
  } else {
    parts.decoder = decoder_of(start);
    parts.decoder_lora.clear();
  }
  // Maps of one input lie in one parameter, one below the other.
  const auto take_block = [&](model::host_block& block, const std::string& before,
                              const std::string& name, const std::vector<float>& values) {
    const std::pair<const char*, std::vector<model::host_linear*>> groups[] = {
        {"query+key+value", {&block.query, &block.key, &block.value}},
        {"output", {&block.output}},
        {"gate+up", {&block.gate, &block.up}},
        {"down", {&block.down}}};
    const std::pair<const char*, host_matrix*> norms[] = {
        {"attention_norm", &block.attention_norm},
        {"feed_forward_norm", &block.feed_forward_norm},
        {"query_norm", &block.query_norm},
        {"key_norm", &block.key_norm}};
    for (const auto& [norm, matrix] : norms) {
      if (name == before + norm) *matrix = keep(values, 1, matrix->cols, matrix->name);
    }
    for (const auto& [group, maps] : groups) {
      const bool weights = name == before + group;
      if (!weights && name != before + group + ".bias") continue;
      auto at = values.begin();
      for (model::host_linear* map : maps) {
        host_matrix& w = weights ? map->weight : map->bias;
        const index_t n = weights ? w.rows * w.cols : map->weight.rows;
        if (!w.empty()) w = keep({at, at + n}, w.rows, w.cols, w.name);
        at += n;
      }
    }
  };
  for (std::size_t i = 0; i < m.parameters().size(); ++i) {
    const train::parameter<B, T>& p = m.parameters()[i];
    if (!p.trained) continue;
    const auto found = p.exact().to_host();
    const std::vector<float> values(found.begin(), found.end());
    for (const auto& [part, prefix] :
         {std::pair{&parts.alignment, "alignment."}, std::pair{&parts.decoder, "decoder."}}) {
      for (std::size_t l = 0; l < part->blocks.size(); ++l) {
        take_block(part->blocks[l], prefix + std::to_string(l) + ".", p.name, values);
      }
      if (p.name == std::string(prefix) + "norm") {
        part->final_norm = keep(values, 1, part->final_norm.cols, part->final_norm.name);
      }
    }
    if (p.name == "encoder.slots") parts.slots = keep(values, p.rows, p.cols, parts.slots.name);
    model::host_model& decoder = parts.decoder;
    if (p.name == "decoder.table") {
      decoder.token_embedding = keep(values, p.rows, p.cols, decoder.token_embedding.name);
    }
    if (p.name == "decoder.head") {
      decoder.head.weight = keep(values, p.rows, p.cols, decoder.head.weight.name);
    }
  }
  for (model::host_model* part : {&parts.encoder, &parts.alignment, &parts.decoder}) {
    part->storage.push_back(memory);
  }
  return parts;
}

}  // namespace gistkv::gmsa
