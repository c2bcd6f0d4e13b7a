// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/io/gmsa_layout.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/io/tensor_list.hpp>

namespace gistkv::io {

namespace detail {

inline void add_model(tensor_list& list, std::string_view prefix, const model::host_model& m,
                      const host_matrix& table, const host_matrix& head, std::string_view stored) {
  const std::string before(prefix);
  const tensor_names& n = hugging_face_names;
  list.add(before + std::string(n.token_embedding), table);
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    add_block(list, before + std::string(n.block_prefix) + std::to_string(i) + ".", m.blocks[i],
              stored);
  }
  list.add_vector(before + std::string(n.final_norm), m.final_norm);
  list.add(before + std::string(n.head), head);
}

}  // namespace detail

/// Writes the layout that the official code saves and load_gmsa_checkpoint reads, whole or not at
/// all. Tables and heads that encoder and alignment lack are the decoder's; a linear alignment that
/// is lacking is written as zeros, since the layout always has one.
/// @throws argument_error for parts without LoRA or with anything but the mean of groups, which the
/// layout cannot hold, and another type than f32, bf16 or f16; file_error.
inline void write_gmsa_checkpoint(const std::filesystem::path& path, const gmsa::host_parts& parts,
                                  weight_type type) {
  if (!parts.slots.empty() || parts.merging != gmsa::merging::mean) {
    throw argument_error(
        "gmsa checkpoint: rows are compressed into their last or into slots, which only an adapter "
        "can say; expected the mean of groups");
  }
  tensor_list list(type);
  const model::host_model decoder = gmsa::decoder_of(parts);  // It has no place for LoRA there.
  const auto add = [&](std::string_view prefix, const model::host_model& m,
                       std::string_view stored) {
    const host_matrix& table =
        m.token_embedding.empty() ? decoder.token_embedding : m.token_embedding;
    const host_matrix& base_head = decoder.config.tied_head ? table : decoder.head.weight;
    detail::add_model(list, prefix, m, table, m.head.weight.empty() ? base_head : m.head.weight,
                      stored);
  };
  add(gmsa_names::encoder, parts.encoder, gmsa_names::base);
  add_lora(list, parts.encoder_lora, parts.encoder, gmsa_lora_names(), maps_with_lora::all);
  add(gmsa_names::decoder, decoder, {});
  if (!parts.alignment.blocks.empty()) add(gmsa_names::alignment, parts.alignment, {});
  const index_t d = decoder.config.d_model;
  const std::vector<float> zeros(static_cast<std::size_t>(d * d), 0.0F);
  const auto bytes = std::as_bytes(std::span(zeros));
  const auto zero = [&](index_t rows) {
    return host_matrix{"zeros", weight_type::f32, rows, d,
                       bytes.first(static_cast<std::size_t>(rows * d) * sizeof(float))};
  };
  const model::host_linear& linear = parts.linear;
  list.add(std::string(gmsa_names::linear) + "weight",
           linear.weight.empty() ? zero(d) : linear.weight);
  list.add_vector(std::string(gmsa_names::linear) + "bias",
                  linear.bias.empty() ? zero(1) : linear.bias);
  write_safetensors(path, list.tensors());
}

}  // namespace gistkv::io
