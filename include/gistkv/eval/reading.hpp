// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include <gistkv/core/types.hpp>
#include <gistkv/eval/policy.hpp>

namespace gistkv::eval {

/// How a model rates a token behind a row.
struct token_score {
  index_t row = 0;  ///< Of those read, the one in front of the token.
  token_t target = -1;
  double logit = 0;
  double lse = 0;             ///< ln sum exp over the base vocabulary.
  double lse_with_gists = 0;  ///< The same with the gists.
  double best = 0;            ///< Greatest logit of the base vocabulary.

  /// -ln p(target), gists left out of the softmax.
  double nll() const { return lse - logit; }
  double nll_with_gists() const { return lse_with_gists - logit; }
};

/// Rows to read. The other spans have an entry a row, or are empty.
struct reading {
  std::span<const token_t> ids;
  std::span<const std::uint8_t> marked = {};  ///< 1 for a separator, or a sentence's end.
  std::span<const token_t> targets = {};      ///< Token to rate behind the row, -1 for none.
};

/// Scores of one row of logits, base vocabulary first.
inline token_score score_row(std::span<const float> logits, std::size_t n_base, token_t target) {
  const float best = *std::max_element(logits.begin(), logits.end());
  auto sum = [best](std::span<const float> part) {
    double total = 0;
    for (const float l : part) total += static_cast<double>(std::exp(l - best));
    return total;
  };
  const double base = sum(logits.first(n_base));
  const double gists = sum(logits.subspan(n_base));
  token_score s;
  s.target = target;
  s.logit = static_cast<double>(logits[static_cast<std::size_t>(target)]);
  s.best = static_cast<double>(
      *std::max_element(logits.begin(), logits.begin() + static_cast<std::ptrdiff_t>(n_base)));
  s.lse = static_cast<double>(best) + std::log(base);
  s.lse_with_gists = static_cast<double>(best) + std::log(base + gists);
  return s;
}

}  // namespace gistkv::eval
