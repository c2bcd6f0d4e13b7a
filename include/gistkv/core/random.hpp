// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// First output of a splitmix64 generator whose state is `state` (Steele, Lea, Flood 2014).
GISTKV_HD constexpr std::uint64_t splitmix64(std::uint64_t state) {
  std::uint64_t z = state + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// Seeded generator with the same numbers on every compiler and library; the standard's
/// distributions promise no such thing. Not for cryptography.
class random_generator {
 public:
  explicit constexpr random_generator(std::uint64_t seed) : state_(seed) {}

  constexpr std::uint64_t next() {
    const std::uint64_t value = splitmix64(state_);
    state_ += 0x9E3779B97F4A7C15ULL;
    return value;
  }
  /// Uniform in [0, 1), 53 random bits.
  constexpr double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Uniform in [low, high).
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform integer in [0, n), n > 0 (multiply-shift; bias below n / 2^32).
  constexpr index_t below(index_t n) {
    return static_cast<index_t>(((next() >> 32) * static_cast<std::uint64_t>(n)) >> 32);
  }
  /// Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// State, to save and continue.
  constexpr std::uint64_t state() const { return state_; }

 private:
  std::uint64_t state_;
};

}  // namespace gistkv
