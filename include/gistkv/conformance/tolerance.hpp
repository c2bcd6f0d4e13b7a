// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/types.hpp>

/// How far a result may be from its expected value, and nothing else about the suite.

namespace gistkv::conformance {

template <class T>
constexpr std::string_view dtype_name() {
  if constexpr (std::same_as<T, double>) {
    return "f64";
  } else if constexpr (std::same_as<T, float>) {
    return "f32";
  } else if constexpr (std::same_as<T, bf16>) {
    return "bf16";
  } else if constexpr (std::same_as<T, q8>) {
    return "q8";
  } else {
    static_assert(std::same_as<T, f16>);
    return "f16";
  }
}

/// |result - expected| <= c eps(T) scale + (smallest normal T), where `scale` is the size of what
/// an element is made of (oracle.hpp gives it for each element). A scale of 0 asks for equality.
///
/// Sums of n rounded terms of mixed sign lose about sqrt(n) eps of the result's root mean square,
/// which is below eps times the sum of magnitudes: c need not grow with the length. The narrow
/// types are carried in float and rounded where they are stored. In f64 the oracle rounds as well.
struct tolerance_row {
  std::string_view op;
  double f64;
  double f32;
  double bf16;
  double f16;
};

inline constexpr std::array<tolerance_row, 16> tolerance_table{{
    {"linear", 8, 4, 2, 2},
    {"matmul", 8, 4, 2, 2},
    {"norm", 16, 8, 2, 2},
    {"rope", 6, 3, 2, 2},
    {"activation", 12, 6, 2, 2},
    {"add", 1, 1, 1, 1},
    {"masked_softmax", 12, 6, 2, 2},
    {"gather_rows", 0, 0, 0, 0},
    {"scatter_rows", 0, 0, 0, 0},
    {"append_rows", 0.5, 0.5, 0.5, 0.5},  // One rounding.
    {"attention", 12, 6, 3, 3},
    {"linears", 8, 4, 2, 2},
    {"append", 0.5, 0.5, 0.5, 0.5},
    {"attention_batch", 12, 6, 3, 3},
    {"project", 31, 16, 7, 7},  // norm, linear, add of a bias, rope.
    {"gated", 37, 19, 7, 7},    // norm, linear, add of a bias, activation.
}};

/// c of the table. @throws argument_error for an operation that has no row.
template <class T>
constexpr double tolerance(std::string_view op) {
  for (const tolerance_row& row : tolerance_table) {
    if (row.op != op) continue;
    if constexpr (std::same_as<T, double>) return row.f64;
    if constexpr (std::same_as<T, float>) return row.f32;
    if constexpr (std::same_as<T, bf16>) return row.bf16;
    if constexpr (std::same_as<T, f16>) return row.f16;
  }
  throw argument_error("tolerance: no row for operation '" + std::string(op) + "'");
}

/// c eps(T) of the table for elements of T and factors of products of F: products are judged by the
/// narrower of the two.
template <class T, class F>
constexpr double unit_budget(std::string_view op) {
  constexpr std::string_view products[] = {"linear",          "linears", "matmul", "attention",
                                           "attention_batch", "project", "gated"};
  const bool multiplies =
      std::find(std::begin(products), std::end(products), op) != std::end(products);
  if (multiplies && epsilon_of<F>() > epsilon_of<T>()) return tolerance<F>(op) * epsilon_of<F>();
  return tolerance<T>(op) * epsilon_of<T>();
}

/// Below this a result may have been flushed to zero.
template <class T>
constexpr double smallest_normal() {
  if constexpr (std::same_as<T, double>) return std::numeric_limits<double>::min();
  if constexpr (std::same_as<T, f16>) return 0x1p-14;
  return static_cast<double>(std::numeric_limits<float>::min());
}

/// What an operation should give, element by element, row-major.
struct expected {
  std::vector<double> value;
  std::vector<double> scale;

  void push(double v, double s) {
    value.push_back(v);
    scale.push_back(s);
  }
  bool all_zero() const {
    return std::all_of(value.begin(), value.end(), [](double v) { return v == 0.0; });
  }
};

/// The element that comes closest to its budget, or exceeds it most.
struct comparison {
  bool passed = true;
  double error = 0.0;
  double budget = 0.0;
  double ratio = 0.0;  ///< error / budget; infinite for NaN and for any error on a budget of 0.
  std::size_t index = 0;
};

/// Compares with budget unit * scale[i] + floor, or 0 where scale[i] is 0. Infinities are equal to
/// themselves; NaN is equal to nothing, an expected NaN included.
/// @throws shape_error if the numbers of elements differ.
inline comparison compare(std::span<const double> found, const expected& want, double unit,
                          double floor) {
  if (found.size() != want.value.size() || found.size() != want.scale.size()) {
    throw shape_error("compare: " + std::to_string(found.size()) + " elements, expected " +
                      std::to_string(want.value.size()));
  }
  comparison worst;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double budget = want.scale[i] == 0.0 ? 0.0 : unit * want.scale[i] + floor;
    double error = found[i] == want.value[i] ? 0.0 : std::abs(found[i] - want.value[i]);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    const bool inside = error <= budget && std::isfinite(error);
    double ratio = std::numeric_limits<double>::infinity();
    if (error == 0.0) {
      ratio = 0.0;
    } else if (budget > 0.0 && std::isfinite(error)) {
      ratio = error / budget;
    }
    if (i == 0 || ratio > worst.ratio) worst = {worst.passed, error, budget, ratio, i};
    worst.passed = worst.passed && inside;
  }
  return worst;
}

}  // namespace gistkv::conformance
