// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/core/types.hpp>

namespace gistkv {

/// rms: x / sqrt(mean(x^2) + eps) * w (Zhang and Sennrich 2019);
/// layer: (x - mean(x)) / sqrt(var(x) + eps) * w + b (Ba et al. 2016).
enum class norm_kind { rms, layer };

/// silu: x / (1 + e^-x); gelu: x (1 + erf(x / sqrt 2)) / 2;
/// gelu_tanh: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
enum class activation_kind { silu, gelu, gelu_tanh };

/// Rows [begin, end) of a call.
struct row_range {
  index_t begin = 0;
  index_t end = 0;

  constexpr index_t size() const { return end - begin; }
};

struct matmul_options {
  bool transpose_b = false;  ///< b is [batch, n, k] instead of [batch, k, n].
  bool accumulate = false;   ///< o += a b instead of o = a b.
  double alpha = 1.0;        ///< Multiplies the product.
};

struct norm_options {
  norm_kind kind = norm_kind::rms;
  double eps = 1e-5;
};

struct rope_options {
  double magnitude = 1.0;  ///< Multiplies cos and sin (attention temperature of YaRN).
};

struct softmax_options {
  double scale = 1.0;  ///< Multiplies the scores before the exponential.
};

}  // namespace gistkv
