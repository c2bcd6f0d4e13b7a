// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include <gistkv/core/types.hpp>

namespace gistkv::train {

enum class schedule_kind { constant, linear, cosine };

/// Learning rate over the steps of a stage: up in a straight line from 0 over `warm_up` steps, then
/// from `peak` down to `floor` at the last step, in a straight line or half a cosine.
struct schedule {
  schedule_kind kind = schedule_kind::cosine;
  double peak = 1e-4;
  double floor = 5e-5;
  index_t warm_up = 100;
  index_t steps = 1000;

  /// Of step `step`, from 1.
  double rate(index_t step) const {
    if (step <= warm_up) return peak * static_cast<double>(step) / static_cast<double>(warm_up);
    if (kind == schedule_kind::constant || steps <= warm_up) return peak;
    const double done =
        std::min(1.0, static_cast<double>(step - warm_up) / static_cast<double>(steps - warm_up));
    const double left =
        kind == schedule_kind::linear ? 1.0 - done : (1.0 + std::cos(std::numbers::pi * done)) / 2;
    return floor + (peak - floor) * left;
  }
};

/// Factor for gradients of Euclidean norm `norm`, so that it is at most `clip`; clip 0: no limit.
inline double clip_factor(double norm, double clip) {
  return clip > 0 && norm > clip ? clip / norm : 1.0;
}

}  // namespace gistkv::train
