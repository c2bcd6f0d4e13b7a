// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/low_rank_file.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/stored_tensor.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::io {

/// Which tensors a GMSA checkpoint of the official code has.
struct gmsa_layout {
  model::model_config config;  ///< Of the model that it was made from; its n_layers: the decoder's.
  tensor_rules rules;          ///< `optional` counts as absent: config.json leaves nothing open.
  index_t encoder_layers = 8;
  index_t alignment_layers = 1;  ///< 0: only the linear alignment.
  index_t lora_rank = 128;
};

/// A tensor that belongs to a file.
struct named_extents {
  std::string name;
  std::vector<index_t> extents;
};

namespace gmsa_names {

inline constexpr std::string_view encoder = "encoder.base_model.model.";
inline constexpr std::string_view decoder = "decoder.";
inline constexpr std::string_view alignment = "memory_fusion_layer.";
inline constexpr std::string_view linear = "semantic_alignment_layer.";
inline constexpr std::string_view base = ".base_layer";
inline constexpr std::string_view lora_a = ".lora_A.default.weight";
inline constexpr std::string_view lora_b = ".lora_B.default.weight";

}  // namespace gmsa_names

/// Where LoRA of the encoder lies.
inline lora_names gmsa_lora_names() {
  return {std::string(gmsa_names::encoder) + std::string(hugging_face_names.block_prefix),
          gmsa_names::lora_a, gmsa_names::lora_b};
}

/// A linear map of a block: its Hugging Face name, extents, and whether a bias stands beside it.
struct block_map {
  std::string_view name;
  index_t out = 0;
  index_t in = 0;
  bool bias = false;
};

inline std::array<block_map, 7> block_maps(const model::model_config& c, const tensor_rules& r) {
  const index_t d_query = c.n_heads * c.head_dim;
  const index_t d_key = c.n_kv_heads * c.head_dim;
  const bool qkv = r.query_key_value_bias == presence::required;
  const bool output = r.output_bias == presence::required;
  const bool feed_forward = r.feed_forward_bias == presence::required;
  const tensor_names& n = hugging_face_names;
  return {{{n.query, d_query, c.d_model, qkv},
           {n.key, d_key, c.d_model, qkv},
           {n.value, d_key, c.d_model, qkv},
           {n.output, c.d_model, d_query, output},
           {n.gate, c.d_ff, c.d_model, feed_forward},
           {n.up, c.d_ff, c.d_model, feed_forward},
           {n.down, c.d_model, c.d_ff, feed_forward}}};
}

namespace detail {

/// One of the three models in a checkpoint. @param rank  of LoRA beside each linear map; 0: none
inline void add_model(std::vector<named_extents>& all, std::string_view prefix,
                      const gmsa_layout& layout, index_t n_layers, index_t rank) {
  const model::model_config& c = layout.config;
  const tensor_names& n = hugging_face_names;
  const std::string before(prefix);
  const auto add = [&all](std::string name, std::vector<index_t> extents) {
    all.push_back({std::move(name), std::move(extents)});
  };
  add(before + std::string(n.token_embedding), {c.n_vocab, c.d_model});
  for (index_t i = 0; i < n_layers; ++i) {
    const std::string block = before + std::string(n.block_prefix) + std::to_string(i) + ".";
    const auto norm = [&](std::string_view part, index_t width) {
      add(block + std::string(part) + ".weight", {width});
    };
    for (const block_map& m : block_maps(c, layout.rules)) {
      if (m.name == n.gate && layout.rules.query_key_norm == presence::required) {
        norm(n.query_norm, c.head_dim);
        norm(n.key_norm, c.head_dim);
      }
      const std::string name = block + std::string(m.name);
      const std::string stored = name + std::string(rank > 0 ? gmsa_names::base : "");
      add(stored + ".weight", {m.out, m.in});
      if (m.bias) add(stored + ".bias", {m.out});
      if (rank == 0) continue;
      add(name + std::string(gmsa_names::lora_a), {rank, m.in});
      add(name + std::string(gmsa_names::lora_b), {m.out, rank});
    }
    norm(n.attention_norm, c.d_model);
    norm(n.feed_forward_norm, c.d_model);
  }
  add(before + std::string(n.final_norm), {c.d_model});
  add(before + std::string(n.head), {c.n_vocab, c.d_model});
}

inline std::string name_list(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace detail

/// All tensors of such a checkpoint, in the order of the official code. Each of the three models
/// has a table and a head of its own, whether the config ties them or not.
inline std::vector<named_extents> gmsa_tensors(const gmsa_layout& layout) {
  std::vector<named_extents> all;
  detail::add_model(all, gmsa_names::encoder, layout, layout.encoder_layers, layout.lora_rank);
  detail::add_model(all, gmsa_names::decoder, layout, layout.config.n_layers, 0);
  const index_t d = layout.config.d_model;
  all.push_back({std::string(gmsa_names::linear) + "weight", {d, d}});
  all.push_back({std::string(gmsa_names::linear) + "bias", {d}});
  if (layout.alignment_layers > 0) {
    detail::add_model(all, gmsa_names::alignment, layout, layout.alignment_layers, 0);
  }
  return all;
}

/// @throws format_error naming every tensor of a file that is missing, of other extents, or not
/// among those expected.
inline void expect_tensors(std::span<const named_extents> expected,
                           std::span<const stored_tensor> found, const std::string& file,
                           std::string_view of) {
  std::map<std::string_view, const stored_tensor*> there;
  for (const stored_tensor& t : found) there.emplace(t.name, &t);
  std::vector<std::string> missing;
  std::vector<std::string> other;
  for (const named_extents& want : expected) {
    const auto at = there.find(want.name);
    if (at == there.end()) {
      missing.push_back(quote(want.name));
      continue;
    }
    if (at->second->extents != want.extents) {
      other.push_back(quote(want.name) + " " + extents_text(at->second->extents) + ", expected " +
                      extents_text(want.extents));
    }
    there.erase(at);
  }
  std::vector<std::string> extra;
  for (const auto& [name, tensor] : there) extra.push_back(quote(name));
  std::string problems;
  const auto report = [&](const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    problems += (problems.empty() ? "" : "; ") + std::to_string(names.size()) + what +
                detail::name_list(names);
  };
  report(" missing: ", missing);
  report(" of other extents: ", other);
  report(" unknown: ", extra);
  if (problems.empty()) return;
  throw format_error(file + ": tensors are not those of " + std::string(of) + ": " + problems);
}

}  // namespace gistkv::io
