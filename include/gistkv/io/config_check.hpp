// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::io {

/// Checks a config that came from a file, beyond model::validate: extents stay below 2^31 so that
/// products of two fit index_t, and the real numbers are finite and in their domain. n_vocab may be
/// 0 (not stated). @throws format_error naming file and field.
inline void check_config(const model::model_config& c, const std::string& file) {
  auto expect = [&](bool good, const char* field, const std::string& found, const char* wanted) {
    if (!good) {
      throw format_error(file + ": " + field + " is " + found + ", expected " + wanted);
    }
  };
  auto extent = [&](const char* field, index_t value, index_t smallest) {
    expect(value >= smallest && value <= std::numeric_limits<std::int32_t>::max(), field,
           std::to_string(value), smallest > 0 ? "1 to 2^31 - 1" : "0 to 2^31 - 1");
  };
  auto positive = [&](const char* field, double value) {
    expect(std::isfinite(value) && value > 0, field, std::to_string(value), "a positive number");
  };
  extent("the number of layers", c.n_layers, 1);
  extent("the model width", c.d_model, 1);
  extent("the number of heads", c.n_heads, 1);
  extent("the number of key-value heads", c.n_kv_heads, 1);
  extent("the head width", c.head_dim, 1);
  extent("the feed-forward width", c.d_ff, 1);
  extent("the vocabulary size", c.n_vocab, 0);
  extent("the context length", c.n_context, 0);
  extent("the original context length", c.rope.original_context, 0);
  expect(c.n_heads % c.n_kv_heads == 0, "the number of heads", std::to_string(c.n_heads),
         ("a multiple of the " + std::to_string(c.n_kv_heads) + " key-value heads").c_str());
  expect(c.head_dim % 2 == 0, "the head width", std::to_string(c.head_dim), "an even number");
  positive("the norm epsilon", c.norm_eps);
  positive("the rotary base", c.rope.theta);
  positive("the rotary scaling factor", c.rope.factor);
  expect(std::isfinite(c.attention_scale) && c.attention_scale >= 0, "the attention scale",
         std::to_string(c.attention_scale), "0 (the default) or a positive number");
  expect(std::isfinite(c.rope.attention_factor) && c.rope.attention_factor >= 0,
         "the yarn attention factor", std::to_string(c.rope.attention_factor),
         "0 (the default) or a positive number");
  if (c.rope.scaling == model::rope_scaling_kind::llama3) {
    positive("low_freq_factor", c.rope.low_freq_factor);
    expect(
        std::isfinite(c.rope.high_freq_factor) && c.rope.high_freq_factor > c.rope.low_freq_factor,
        "high_freq_factor", std::to_string(c.rope.high_freq_factor),
        ("more than low_freq_factor " + std::to_string(c.rope.low_freq_factor)).c_str());
  }
  if (c.rope.scaling == model::rope_scaling_kind::yarn) {
    expect(c.rope.factor >= 1.0, "the rotary scaling factor", std::to_string(c.rope.factor),
           "at least 1 for yarn");
    positive("beta_slow", c.rope.beta_slow);
    expect(std::isfinite(c.rope.beta_fast) && c.rope.beta_fast > c.rope.beta_slow, "beta_fast",
           std::to_string(c.rope.beta_fast),
           ("more than beta_slow " + std::to_string(c.rope.beta_slow)).c_str());
  }
  if (c.rope.scaling == model::rope_scaling_kind::llama3 ||
      c.rope.scaling == model::rope_scaling_kind::yarn) {
    extent("the original context length", c.rope.original_context, 1);
  }
}

}  // namespace gistkv::io
