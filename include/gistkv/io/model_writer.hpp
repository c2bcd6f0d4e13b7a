// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/io/tensor_list.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/host_model.hpp>

/// A model as a Hugging Face directory: config.json and model.safetensors.

namespace gistkv::io {

namespace detail {

inline nlohmann::ordered_json rope_scaling_json(const model::rope_config& r) {
  nlohmann::ordered_json j;
  switch (r.scaling) {
    case model::rope_scaling_kind::none:
      return nullptr;
    case model::rope_scaling_kind::linear:
      return {{"rope_type", "linear"}, {"factor", r.factor}};
    case model::rope_scaling_kind::llama3:
      return {{"rope_type", "llama3"},
              {"factor", r.factor},
              {"low_freq_factor", r.low_freq_factor},
              {"high_freq_factor", r.high_freq_factor},
              {"original_max_position_embeddings", r.original_context}};
    case model::rope_scaling_kind::yarn:
      j = {{"rope_type", "yarn"},
           {"factor", r.factor},
           {"beta_fast", r.beta_fast},
           {"beta_slow", r.beta_slow},
           {"original_max_position_embeddings", r.original_context}};
      if (r.attention_factor > 0) j["attention_factor"] = r.attention_factor;
      return j;
  }
  return nullptr;
}

inline const char* activation_name(activation_kind kind) {
  switch (kind) {
    case activation_kind::gelu:
      return "gelu";
    case activation_kind::gelu_tanh:
      return "gelu_pytorch_tanh";
    default:
      return "silu";
  }
}

}  // namespace detail

/// The config.json of a model, which parse_model_config reads as the same numbers and rules.
/// @throws argument_error for what the format cannot say: another architecture than llama, qwen2
/// and qwen3, layer norm, an attention scale or frequency divisors of the file's own, biases on
/// some maps that the architecture has on others.
inline nlohmann::ordered_json model_config_json(const model::host_model& m) {
  const model::model_config& c = m.config;
  const auto refuse = [&c](bool wrong, const std::string& what) {
    if (wrong) throw argument_error("config.json of '" + c.name + "' cannot hold " + what);
  };
  refuse(c.architecture != "llama" && c.architecture != "qwen2" && c.architecture != "qwen3",
         "architecture " + quote(c.architecture) + ", expected llama, qwen2 or qwen3");
  refuse(c.norm != norm_kind::rms, "another norm than rms");
  refuse(c.attention_scale != 0.0, "an attention scale, " + std::to_string(c.attention_scale));
  refuse(!c.rope.frequency_divisors.empty(), "divisors of rotary frequencies");
  refuse(m.blocks.empty() || !m.head.bias.empty(), "a model without layers or a biased head");
  const model::host_block& b = m.blocks.front();
  const bool biased = !b.query.bias.empty();
  const bool qwen2 = c.architecture == "qwen2";
  refuse(qwen2 != biased && (qwen2 || b.output.bias.empty()),
         "query biases without those of the output, or qwen2 without any");
  refuse(!b.output.bias.empty() && (qwen2 || !biased), "a bias of the output alone");
  refuse(!b.gate.bias.empty() && c.architecture != "llama", "biases of the feed-forward maps");
  refuse(b.query_norm.empty() == (c.architecture == "qwen3"),
         "norms of queries that do not go with " + c.architecture);

  nlohmann::ordered_json j;
  const std::string stem = c.architecture == "llama" ? "Llama" : qwen2 ? "Qwen2" : "Qwen3";
  j["architectures"] = {stem + "ForCausalLM"};
  j["model_type"] = c.architecture;
  if (!c.name.empty()) j["_name_or_path"] = c.name;
  j["hidden_size"] = c.d_model;
  j["intermediate_size"] = c.d_ff;
  j["num_hidden_layers"] = c.n_layers;
  j["num_attention_heads"] = c.n_heads;
  j["num_key_value_heads"] = c.n_kv_heads;
  j["head_dim"] = c.head_dim;
  j["vocab_size"] = c.n_vocab;
  if (c.n_context > 0) j["max_position_embeddings"] = c.n_context;
  j["rms_norm_eps"] = c.norm_eps;
  j["hidden_act"] = detail::activation_name(c.activation);
  j["tie_word_embeddings"] = c.tied_head;
  j["rope_theta"] = c.rope.theta;
  j["rope_scaling"] = detail::rope_scaling_json(c.rope);
  if (!qwen2) j["attention_bias"] = biased;
  if (c.architecture == "llama") j["mlp_bias"] = !b.gate.bias.empty();
  return j;
}

/// Writes config.json and model.safetensors into a directory that is there, each whole or not at
/// all; io::load_model reads them as the same model.
/// @param type  f32, bf16 or f16, of all tensors
/// @throws argument_error as model_config_json and for another type; file_error.
inline void write_model(const std::filesystem::path& directory, const model::host_model& m,
                        weight_type type) {
  nlohmann::ordered_json config = model_config_json(m);
  config["torch_dtype"] = type == weight_type::bf16  ? "bfloat16"
                          : type == weight_type::f16 ? "float16"
                                                     : "float32";
  tensor_list list(type);
  const tensor_names& n = hugging_face_names;
  list.add(std::string(n.token_embedding), m.token_embedding);
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    add_block(list, std::string(n.block_prefix) + std::to_string(i) + ".", m.blocks[i]);
  }
  list.add_vector(std::string(n.final_norm), m.final_norm);
  if (!m.config.tied_head) list.add(std::string(n.head), m.head.weight);
  // The name may hold any bytes.
  const auto replace = nlohmann::ordered_json::error_handler_t::replace;
  write_file_atomically(directory / "config.json", config.dump(2, ' ', false, replace) + "\n");
  // What transformers asks for before it reads a file.
  write_safetensors(directory / "model.safetensors", list.tensors(), {{"format", "pt"}});
}

}  // namespace gistkv::io
