// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::model {

/// How rotary frequencies are stretched beyond the trained context.
enum class rope_scaling_kind {
  none,
  linear,  ///< All positions divided by `factor`.
  llama3,  ///< Low frequencies divided by `factor`, high ones kept, smooth between (Llama 3.1).
  yarn,    ///< NTK-by-parts with attention temperature (Peng et al. 2023, arXiv 2309.00071).
};

struct rope_config {
  double theta = 10000.0;
  rope_scaling_kind scaling = rope_scaling_kind::none;
  double factor = 1.0;
  index_t original_context = 0;  ///< Trained positions before stretching; llama3 and yarn.
  double low_freq_factor = 1.0;  ///< llama3.
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;  ///< yarn.
  double beta_slow = 1.0;
  double attention_factor = 0.0;  ///< yarn; 0: 0.1 ln(factor) + 1.
  /// Divisors of each frequency from a model file, head_dim / 2 of them; empty: none.
  std::vector<float> frequency_divisors;
};

/// One transformer of the Llama family; the block reads nothing but these fields.
struct model_config {
  std::string architecture;  ///< As the file names it; for messages and fingerprints only.
  std::string name;
  index_t n_layers = 0;
  index_t d_model = 0;
  index_t n_heads = 0;
  index_t n_kv_heads = 0;
  index_t head_dim = 0;
  index_t d_ff = 0;
  index_t n_vocab = 0;    ///< Rows of the embedding table, gists not included.
  index_t n_context = 0;  ///< Trained positions; 0: unknown.
  norm_kind norm = norm_kind::rms;
  double norm_eps = 1e-5;
  activation_kind activation = activation_kind::silu;
  rope_config rope;
  bool tied_head = false;
  double attention_scale = 0.0;  ///< Multiplies q.k; 0: head_dim^-0.5.
};

/// @throws shape_error, argument_error naming the field.
inline void validate(const model_config& c) {
  auto positive = [](const char* field, index_t value) {
    if (value <= 0) {
      throw argument_error(std::string("model config: ") + field + " is " + std::to_string(value) +
                           ", expected a positive number");
    }
  };
  positive("n_layers", c.n_layers);
  positive("d_model", c.d_model);
  positive("n_heads", c.n_heads);
  positive("n_kv_heads", c.n_kv_heads);
  positive("head_dim", c.head_dim);
  positive("d_ff", c.d_ff);
  positive("n_vocab", c.n_vocab);
  if (c.n_heads % c.n_kv_heads != 0) {
    throw shape_error("model config: n_heads " + std::to_string(c.n_heads) +
                      " is no multiple of n_kv_heads " + std::to_string(c.n_kv_heads));
  }
  if (c.head_dim % 2 != 0) {
    throw shape_error("model config: head_dim " + std::to_string(c.head_dim) + " is odd");
  }
}

}  // namespace gistkv::model
