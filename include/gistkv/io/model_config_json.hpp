// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/config_check.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/strict_json.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::io {

/// What a config.json says: the model's numbers and which optional tensors its blocks have.
struct hugging_face_config {
  model::model_config model;
  tensor_rules rules;
};

namespace detail {

/// A field that may only say that the thing it sets is off: absent, null, false, 0 or `neutral`.
inline void expect_off(const json_fields& fields, const char* key, double neutral = 0.0) {
  const nlohmann::json* value = fields.find(key);
  if (value == nullptr || (value->is_boolean() && !value->get<bool>()) ||
      (value->is_number() && value->get<double>() == neutral)) {
    return;
  }
  fields.fail(key, *value, "it off or absent, since the computation does not support it");
}

inline activation_kind parse_activation(const json_fields& fields) {
  const auto text = fields.find<std::string>("hidden_act").value_or("silu");
  if (text == "silu" || text == "swish") return activation_kind::silu;
  if (text == "gelu") return activation_kind::gelu;
  if (text == "gelu_pytorch_tanh" || text == "gelu_new") return activation_kind::gelu_tanh;
  fields.fail("hidden_act", *fields.find("hidden_act"),
              "silu, gelu, gelu_pytorch_tanh or gelu_new");
}

/// Reads `rope_scaling`, or `rope_parameters` of the newer form, into `rope`.
inline void parse_rope_scaling(const json_fields& fields, index_t n_context,
                               model::rope_config& rope) {
  const auto newer = fields.find<std::string>("rope_type");
  const auto older = fields.find<std::string>("type");
  if (newer && older && *newer != *older) {
    throw format_error(fields.where() + ": rope_type " + quote(*newer) + " contradicts type " +
                       quote(*older));
  }
  const std::string type = newer ? *newer : older.value_or("default");
  expect_off(fields, "partial_rotary_factor", 1.0);
  expect_off(fields, "mrope_section");
  if (type == "default" || type == "none") return;
  if (type == "linear") {
    rope.scaling = model::rope_scaling_kind::linear;
    rope.factor = fields.get<double>("factor");
  } else if (type == "llama3") {
    rope.scaling = model::rope_scaling_kind::llama3;
    rope.factor = fields.get<double>("factor");
    rope.low_freq_factor = fields.get<double>("low_freq_factor");
    rope.high_freq_factor = fields.get<double>("high_freq_factor");
    rope.original_context = fields.get<std::int64_t>("original_max_position_embeddings");
  } else if (type == "yarn") {
    rope.scaling = model::rope_scaling_kind::yarn;
    rope.original_context =
        fields.find<std::int64_t>("original_max_position_embeddings").value_or(n_context);
    rope.factor = fields.get<double>("factor");
    rope.beta_fast = fields.find<double>("beta_fast").value_or(rope.beta_fast);
    rope.beta_slow = fields.find<double>("beta_slow").value_or(rope.beta_slow);
    const auto mscale = fields.find<double>("mscale");
    const auto mscale_all_dim = fields.find<double>("mscale_all_dim");
    // As in the reference: only a pair of nonzero multipliers replaces the usual temperature.
    if (const auto given = fields.find<double>("attention_factor")) {
      if (!(*given > 0.0)) {
        fields.fail("attention_factor", *fields.find("attention_factor"), "a positive number");
      }
      rope.attention_factor = *given;
    } else if (mscale.value_or(0.0) != 0.0 && mscale_all_dim.value_or(0.0) != 0.0) {
      const double log_factor = rope.factor > 1.0 ? 0.1 * std::log(rope.factor) : 0.0;
      rope.attention_factor = (*mscale * log_factor + 1.0) / (*mscale_all_dim * log_factor + 1.0);
    }
    if (!fields.find<bool>("truncate").value_or(true)) {
      fields.fail("truncate", *fields.find("truncate"), "true");
    }
  } else {
    throw format_error(fields.where() + ": rotary scaling type " + quote(type) +
                       " is not supported, expected default, linear, llama3 or yarn");
  }
}

inline model::rope_config parse_rope(const json_fields& fields, index_t n_context) {
  model::rope_config rope;
  std::optional<double> theta = fields.find<double>("rope_theta");
  const nlohmann::json* parameters = fields.find("rope_parameters");
  const nlohmann::json* scaling = fields.find("rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling) {
    throw format_error(fields.where() +
                       ": rope_parameters and rope_scaling differ, expected one of them");
  }
  if (const nlohmann::json* given = parameters != nullptr ? parameters : scaling) {
    const json_fields rope_fields(
        *given, fields.where() + (parameters != nullptr ? ": rope_parameters" : ": rope_scaling"));
    for (const auto& [key, value] : given->items()) {
      if (value.is_object()) {
        throw format_error(rope_fields.where() + ": holds a set of its own for " + quote(key) +
                           ", expected one for all layers");
      }
    }
    if (const auto inner = rope_fields.find<double>("rope_theta")) {
      if (theta && *theta != *inner) {
        throw format_error(rope_fields.where() + ": rope_theta " + std::to_string(*inner) +
                           " contradicts the config's own, " + std::to_string(*theta));
      }
      theta = inner;
    }
    parse_rope_scaling(rope_fields, n_context, rope);
    // As in the model classes, a trained context beside the other fields goes before the inner one.
    if (rope.scaling == model::rope_scaling_kind::llama3 ||
        rope.scaling == model::rope_scaling_kind::yarn) {
      rope.original_context = fields.find<std::int64_t>("original_max_position_embeddings")
                                  .value_or(rope.original_context);
    }
  }
  rope.theta = theta.value_or(10000.0);
  return rope;
}

/// Refuses what would make the model compute something else than the library does.
inline void expect_plain_computation(const json_fields& fields, const std::string& model_type) {
  for (const char* key :
       {"use_sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "clip_qkv",
        "num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size",
        "quantization_config", "use_bidirectional_attention", "rope_interleaved", "alibi",
        "no_rope_layers", "auto_map"}) {
    expect_off(fields, key);
  }
  for (const char* key : {"partial_rotary_factor", "logit_scale", "logits_scaling",
                          "residual_multiplier", "embedding_multiplier"}) {
    expect_off(fields, key, 1.0);
  }
  if (!fields.find<bool>("is_causal").value_or(true)) {
    fields.fail("is_causal", *fields.find("is_causal"), "true");
  }
  // Llama has no window at all; the Qwen classes read it only beside use_sliding_window.
  if (model_type == "llama") expect_off(fields, "sliding_window");
  if (const nlohmann::json* types = fields.find("layer_types")) {
    for (const nlohmann::json& type : *types) {
      if (type != "full_attention") fields.fail("layer_types", type, "'full_attention' throughout");
    }
  }
  if (const nlohmann::json* classes = fields.find("architectures")) {
    const std::string stem = model_type == "llama"   ? "Llama"
                             : model_type == "qwen2" ? "Qwen2"
                                                     : "Qwen3";
    for (const nlohmann::json& name : *classes) {
      if (name != stem + "ForCausalLM" && name != stem + "Model") {
        fields.fail("architectures", name, quote(stem + "ForCausalLM"));
      }
    }
  }
}

}  // namespace detail

/// Reads the config.json of a Hugging Face model of type llama, qwen2 or qwen3. Fields that the
/// model's own class does not read are ignored; those that would change the computation are errors.
/// Defaults are those of the classes. @throws format_error naming `file` and field.
inline hugging_face_config parse_model_config(std::string_view text, const std::string& file) {
  const nlohmann::json json = parse_strict_json(text, file);
  const json_fields fields(json, file);
  const auto type = fields.get<std::string>("model_type");
  if (type != "llama" && type != "qwen2" && type != "qwen3") {
    throw format_error(file + ": model_type " + quote(type) +
                       " is not supported, expected llama, qwen2 or qwen3");
  }
  hugging_face_config result;
  model::model_config& c = result.model;
  c.architecture = type;
  c.name = fields.find<std::string>("_name_or_path").value_or("");
  c.n_layers = fields.get<std::int64_t>("num_hidden_layers");
  c.d_model = fields.get<std::int64_t>("hidden_size");
  c.n_heads = fields.get<std::int64_t>("num_attention_heads");
  c.n_kv_heads = fields.find<std::int64_t>("num_key_value_heads").value_or(c.n_heads);
  c.d_ff = fields.get<std::int64_t>("intermediate_size");
  c.n_vocab = fields.get<std::int64_t>("vocab_size");
  c.n_context = fields.find<std::int64_t>("max_position_embeddings").value_or(0);
  c.norm_eps = fields.find<double>("rms_norm_eps").value_or(1e-6);
  c.activation = detail::parse_activation(fields);
  c.tied_head = fields.find<bool>("tie_word_embeddings").value_or(false);
  if (const auto head_dim = fields.find<std::int64_t>("head_dim")) {
    c.head_dim = *head_dim;
  } else if (c.n_heads < 1 || c.d_model % c.n_heads != 0) {
    throw format_error(file + ": num_attention_heads is " + std::to_string(c.n_heads) +
                       ", expected a divisor of hidden_size " + std::to_string(c.d_model));
  } else {
    c.head_dim = c.d_model / c.n_heads;
  }
  c.rope = detail::parse_rope(fields, c.n_context);
  detail::expect_plain_computation(fields, type);

  const bool attention_bias = fields.find<bool>("attention_bias").value_or(false);
  const bool mlp_bias = fields.find<bool>("mlp_bias").value_or(false);
  // Qwen2 has query, key and value biases whatever the config says, and no others; only Llama's
  // class reads mlp_bias.
  tensor_rules& rules = result.rules;
  if (type == "qwen2" || attention_bias) rules.query_key_value_bias = presence::required;
  if (type != "qwen2" && attention_bias) rules.output_bias = presence::required;
  if (type == "llama" && mlp_bias) rules.feed_forward_bias = presence::required;
  if (type == "qwen3") rules.query_key_norm = presence::required;
  check_config(c, file);
  return result;
}

}  // namespace gistkv::io
