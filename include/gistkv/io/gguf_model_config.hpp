// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/config_check.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/utf8_stream.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::io {

namespace detail {

/// Reads the keys of one architecture and, at the end, tells whether any was left over.
class gguf_config_reader {
 public:
  gguf_config_reader(const gguf_file& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  index_t integer(std::string_view key) { return file_.get<index_t>(use(key)); }
  std::optional<index_t> find_integer(std::string_view key) {
    return file_.find<index_t>(use(key));
  }
  double real(std::string_view key) { return file_.get<double>(use(key)); }
  std::optional<double> find_real(std::string_view key) { return file_.find<double>(use(key)); }
  std::optional<std::string> find_string(std::string_view key) {
    return file_.find<std::string>(use(key));
  }

  /// A key whose value does not matter here.
  void ignore(std::string_view key) { use(key); }

  /// A key that may only say that the thing it sets is not used.
  template <class T>
  void expect_neutral(std::string_view key, T neutral) {
    const auto value = file_.find<T>(use(key));
    if (value && *value != neutral) {
      throw format_error(file_.name() + ": key " + quote(prefix_ + std::string(key)) + " is " +
                         std::to_string(*value) + ", which is not supported, expected " +
                         std::to_string(neutral));
    }
  }

  /// A key of the architecture that nobody asked for may well change the computation.
  void expect_all_used() const {
    for (const gguf_entry& entry : file_.metadata()) {
      if (entry.key.starts_with(prefix_) && std::ranges::find(used_, entry.key) == used_.end()) {
        throw format_error(file_.name() + ": key " + quote(entry.key) +
                           " is not known and might change the computation");
      }
    }
  }

 private:
  const std::string& use(std::string_view key) {
    return used_.emplace_back(prefix_ + std::string(key));
  }

  const gguf_file& file_;
  std::string prefix_;
  std::vector<std::string> used_;
};

inline model::rope_config gguf_rope_config(gguf_config_reader& keys, const std::string& file,
                                           index_t n_context) {
  model::rope_config rope;
  rope.theta = keys.find_real("rope.freq_base").value_or(10000.0);
  const auto type = keys.find_string("rope.scaling.type");
  const auto factor = keys.find_real("rope.scaling.factor");
  const auto older_factor = keys.find_real("rope.scale_linear");
  const double attention_factor = keys.find_real("rope.scaling.attn_factor").value_or(1.0);
  rope.original_context = keys.find_integer("rope.scaling.original_context_length").value_or(0);
  rope.beta_fast = keys.find_real("rope.scaling.yarn_beta_fast").value_or(rope.beta_fast);
  rope.beta_slow = keys.find_real("rope.scaling.yarn_beta_slow").value_or(rope.beta_slow);
  keys.ignore("rope.scaling.finetuned");  // Says how the weights came to be.
  keys.expect_neutral("rope.scaling.yarn_ext_factor", 1.0);
  keys.expect_neutral("rope.scaling.yarn_attn_factor", 1.0);
  keys.expect_neutral("rope.scaling.yarn_log_multiplier", 0.0);
  keys.expect_neutral("rope.scaling.alpha", 0.0);
  // A factor of 0 stands for none, as does the lack of the key; linear is what a factor without a
  // type means.
  double stretch = factor.value_or(older_factor.value_or(0.0));
  if (stretch == 0.0) stretch = 1.0;
  const std::string kind = type.value_or("linear");
  if (kind == "none") {
    stretch = 1.0;
  } else if (kind == "linear") {
    if (stretch != 1.0) rope.scaling = model::rope_scaling_kind::linear;
  } else if (kind == "yarn") {
    rope.scaling = model::rope_scaling_kind::yarn;
    if (rope.original_context == 0) rope.original_context = n_context;
    // Here the file's factor multiplies the usual temperature; in the config it replaces it.
    if (attention_factor != 1.0) {
      rope.attention_factor = attention_factor * (0.1 * std::log(stretch) + 1.0);
    }
  } else {
    throw format_error(file + ": rotary scaling type " + quote(kind) +
                       " is not supported, expected none, linear or yarn");
  }
  if (kind != "yarn" && attention_factor != 1.0) {
    throw format_error(file + ": rope.scaling.attn_factor is " + std::to_string(attention_factor) +
                       " with rotary scaling type " + quote(kind) + ", expected 1");
  }
  rope.factor = stretch;
  return rope;
}

}  // namespace detail

/// Architectures of GGUF files that can be read.
inline constexpr std::array<std::string_view, 3> gguf_architectures = {"llama", "qwen2", "qwen3"};

/// The config of a GGUF model; n_vocab is 0 unless the file has a vocabulary or states the number.
///
/// Every key of the architecture must be known: one that sets something this library does not
/// compute (experts, sliding windows, soft caps, ...) is an error unless it says that it is off.
/// @throws format_error naming file and key.
inline model::model_config gguf_model_config(const gguf_file& file) {
  model::model_config c;
  c.architecture = file.get<std::string>("general.architecture");
  if (std::ranges::find(gguf_architectures, c.architecture) == gguf_architectures.end()) {
    throw format_error(file.name() + ": architecture " + quote(c.architecture) +
                       " is not supported, expected llama, qwen2 or qwen3");
  }
  // Said to users and written into files, all of which are UTF-8.
  utf8_stream name;
  c.name = name.push(file.find<std::string>("general.name").value_or(""));
  c.name += name.flush();
  detail::gguf_config_reader keys(file, c.architecture);
  c.n_layers = keys.integer("block_count");
  c.d_model = keys.integer("embedding_length");
  c.d_ff = keys.integer("feed_forward_length");
  c.n_heads = keys.integer("attention.head_count");
  c.n_kv_heads = keys.find_integer("attention.head_count_kv").value_or(c.n_heads);
  c.n_context = keys.find_integer("context_length").value_or(0);
  c.norm_eps = keys.real("attention.layer_norm_rms_epsilon");
  c.attention_scale = keys.find_real("attention.scale").value_or(0.0);
  const auto key_length = keys.find_integer("attention.key_length");
  if (!key_length && (c.n_heads < 1 || c.d_model % c.n_heads != 0)) {
    throw format_error(file.name() + ": attention.head_count is " + std::to_string(c.n_heads) +
                       ", expected a divisor of embedding_length " + std::to_string(c.d_model));
  }
  c.head_dim = key_length ? *key_length : c.d_model / c.n_heads;
  keys.expect_neutral("attention.value_length", c.head_dim);
  keys.expect_neutral("rope.dimension_count", c.head_dim);
  c.rope = detail::gguf_rope_config(keys, file.name(), c.n_context);

  const auto stated = keys.find_integer("vocab_size");
  const auto tokens = file.find<std::vector<std::string_view>>("tokenizer.ggml.tokens");
  c.n_vocab = tokens ? static_cast<index_t>(tokens->size()) : stated.value_or(0);

  for (const std::string_view key : {"tensor_data_layout", "pooling_type"}) keys.ignore(key);
  keys.expect_neutral<index_t>("expert_count", 0);
  keys.expect_neutral<index_t>("expert_used_count", 0);
  keys.expect_neutral<index_t>("attention.sliding_window", 0);
  for (const std::string_view key : {"attn_logit_softcapping", "final_logit_softcapping",
                                     "attention.clamp_kqv", "attention.max_alibi_bias"}) {
    keys.expect_neutral(key, 0.0);
  }
  for (const std::string_view key : {"logit_scale", "residual_scale", "embedding_scale"}) {
    keys.expect_neutral(key, 1.0);
  }
  keys.expect_neutral("attention.causal", true);
  keys.expect_neutral("use_parallel_residual", false);
  keys.expect_all_used();
  check_config(c, file.name());
  return c;
}

}  // namespace gistkv::io
