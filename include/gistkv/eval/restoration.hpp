// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <vector>

#include <gistkv/core/types.hpp>

/// How much of a text stands in what was to restore it.

namespace gistkv::eval {

inline constexpr std::size_t bleu_order = 4;

/// What BLEU is made of (Papineni et al. 2002), for one text; sums over texts make it that of all.
struct restoration {
  std::array<double, bleu_order> matches{};  ///< n-grams found in the text, each as often as there.
  std::array<double, bleu_order> n_grams{};  ///< n-grams written.
  double n_written = 0;
  double n_wanted = 0;
  double in_place = 0;      ///< Tokens that are right where they stand.
  double exact_prefix = 0;  ///< Tokens in front of the first that is wrong.
};

inline restoration restored(std::span<const token_t> written, std::span<const token_t> wanted) {
  restoration r;
  r.n_written = static_cast<double>(written.size());
  r.n_wanted = static_cast<double>(wanted.size());
  bool exact = true;
  for (std::size_t i = 0; i < std::min(written.size(), wanted.size()); ++i) {
    const bool right = written[i] == wanted[i];
    exact = exact && right;
    r.in_place += right ? 1 : 0;
    r.exact_prefix += exact ? 1 : 0;
  }
  for (std::size_t n = 1; n <= bleu_order; ++n) {
    std::map<std::vector<token_t>, double> there;
    const auto gram = [n](std::span<const token_t> all, std::size_t i) {
      const auto part = all.subspan(i, n);
      return std::vector<token_t>(part.begin(), part.end());
    };
    for (std::size_t i = 0; i + n <= wanted.size(); ++i) there[gram(wanted, i)] += 1;
    for (std::size_t i = 0; i + n <= written.size(); ++i) {
      r.n_grams[n - 1] += 1;
      const auto found = there.find(gram(written, i));
      if (found == there.end() || found->second == 0) continue;
      found->second -= 1;
      r.matches[n - 1] += 1;
    }
  }
  return r;
}

/// BLEU of sums: the geometric mean of the shares of n-grams, n = 1 to 4, times
/// exp(1 - wanted / written) where less was written than wanted; 0 where a share is 0.
inline double bleu(const restoration& sum) {
  if (sum.n_written == 0) return 0;
  double log_mean = 0;
  for (std::size_t n = 0; n < bleu_order; ++n) {
    if (sum.matches[n] == 0) return 0;
    log_mean += std::log(sum.matches[n] / sum.n_grams[n]) / static_cast<double>(bleu_order);
  }
  return std::exp(log_mean + std::min(0.0, 1.0 - sum.n_wanted / sum.n_written));
}

}  // namespace gistkv::eval
