// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/model/config.hpp>

namespace gistkv::model {

/// Rotary frequencies f_j = theta^(-2 j / head_dim), j < head_dim / 2, in radians a position, after
/// the model's scaling; in float, as the models were trained.
///
/// linear: f / factor. llama3: with wavelength w = 2 pi / f and context C = original_context,
/// f / factor where w > C / low_freq_factor, f where w < C / high_freq_factor, else the mix
/// s f + (1 - s) f / factor, s = (C / w - low) / (high - low). yarn: f / factor and f mixed by a
/// linear ramp over j between the dimensions that turn beta_fast and beta_slow times within C
/// (Peng et al. 2023, equations 23 to 25). @throws shape_error, argument_error.
inline std::vector<float> rope_frequencies(const rope_config& rope, index_t head_dim) {
  const index_t half = head_dim / 2;
  if (!rope.frequency_divisors.empty() &&
      static_cast<index_t>(rope.frequency_divisors.size()) != half) {
    throw shape_error("rope: " + std::to_string(rope.frequency_divisors.size()) +
                      " frequency divisors, expected " + std::to_string(half));
  }
  const bool needs_context =
      rope.scaling == rope_scaling_kind::llama3 || rope.scaling == rope_scaling_kind::yarn;
  if (rope.factor <= 0 || (needs_context && rope.original_context <= 0)) {
    throw argument_error("rope: factor " + std::to_string(rope.factor) + ", original context " +
                         std::to_string(rope.original_context) + ", expected positive numbers");
  }
  const auto context = static_cast<double>(rope.original_context);
  // The dimension whose frequency makes `turns` full turns within the context.
  auto dimension_of = [&](double turns) {
    return static_cast<double>(half) * std::log(context / (turns * 2 * std::numbers::pi)) /
           std::log(rope.theta);
  };
  std::vector<float> frequencies;
  for (index_t j = 0; j < half; ++j) {
    double f = std::pow(rope.theta, -static_cast<double>(j) / static_cast<double>(half));
    switch (rope.scaling) {
      case rope_scaling_kind::none:
        break;
      case rope_scaling_kind::linear:
        f /= rope.factor;
        break;
      case rope_scaling_kind::llama3: {
        const double turns = context * f / (2 * std::numbers::pi);
        const double smooth = std::clamp(
            (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0,
            1.0);
        f = smooth * f + (1 - smooth) * f / rope.factor;
        break;
      }
      case rope_scaling_kind::yarn: {
        const double low = std::max(std::floor(dimension_of(rope.beta_fast)), 0.0);
        const double high =
            std::min(std::ceil(dimension_of(rope.beta_slow)), static_cast<double>(head_dim - 1));
        // Negative where no dimension turns that often or seldom: then the ramp is flat, as in the
        // programs that models are trained with.
        const double width = high == low ? 0.001 : high - low;
        const double ramp = std::clamp((static_cast<double>(j) - low) / width, 0.0, 1.0);
        f = (1 - ramp) * f + ramp * f / rope.factor;
        break;
      }
    }
    if (!rope.frequency_divisors.empty()) {
      f /= static_cast<double>(rope.frequency_divisors[static_cast<std::size_t>(j)]);
    }
    frequencies.push_back(static_cast<float>(f));
  }
  return frequencies;
}

/// What cos and sin are multiplied with: 1, or the attention temperature of YaRN.
inline double rope_magnitude(const rope_config& rope) {
  if (rope.scaling != rope_scaling_kind::yarn) return 1.0;
  if (rope.attention_factor > 0) return rope.attention_factor;
  return rope.factor <= 1 ? 1.0 : 0.1 * std::log(rope.factor) + 1.0;
}

}  // namespace gistkv::model
