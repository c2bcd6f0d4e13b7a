// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/error.hpp>

namespace gistkv::eval {

/// Index of the greatest score; of equal ones the first. @throws argument_error for none.
inline std::size_t best_choice(std::span<const double> scores) {
  if (scores.empty()) throw argument_error("choices: no scores");
  return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

/// p_i = exp(l_i) / sum_j exp(l_j): log-probabilities of options, normalised among themselves.
inline std::vector<double> option_distribution(std::span<const double> log_probabilities) {
  const double best = log_probabilities[best_choice(log_probabilities)];
  std::vector<double> p;
  double total = 0;
  for (const double l : log_probabilities) {
    p.push_back(std::exp(l - best));
    total += p.back();
  }
  for (double& x : p) x /= total;
  return p;
}

/// KL(p || q) = sum_i p_i ln(p_i / q_i), in nats, of two option distributions from their
/// log-probabilities. @throws argument_error for different numbers of options.
inline double option_divergence(std::span<const double> p, std::span<const double> q) {
  if (p.size() != q.size()) {
    throw argument_error("choices: " + std::to_string(q.size()) + " options against " +
                         std::to_string(p.size()));
  }
  auto log_sum = [](std::span<const double> l) {
    const double best = l[best_choice(l)];
    double total = 0;
    for (const double x : l) total += std::exp(x - best);
    return best + std::log(total);
  };
  const double p_sum = log_sum(p);
  const double q_sum = log_sum(q);
  double kl = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    kl += std::exp(p[i] - p_sum) * ((p[i] - p_sum) - (q[i] - q_sum));
  }
  return std::max(0.0, kl);
}

}  // namespace gistkv::eval
