// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv::model {

struct sampler_options {
  double temperature = 0.0;     ///< 0: the most likely token, no chance involved.
  index_t top_k = 0;            ///< Only the k most likely tokens; 0: all.
  double top_p = 1.0;           ///< Smallest set of likely tokens with at least this probability.
  double min_p = 0.0;           ///< Only tokens at least this likely relative to the best one.
  double repeat_penalty = 1.0;  ///< Logits of tokens already generated: l > 0 ? l / p : l * p
                                ///< (Keskar et al. 2019), each distinct token once.
  std::uint64_t seed = 0;
};

/// @throws argument_error naming the option.
inline void validate(const sampler_options& o) {
  auto check = [](bool holds, const char* option, double value, const char* range) {
    if (holds) return;
    throw argument_error(std::string("sampler: ") + option + " is " + std::to_string(value) +
                         ", expected " + range);
  };
  check(o.temperature >= 0, "temperature", o.temperature, "0 or more");
  check(o.top_k >= 0, "top_k", static_cast<double>(o.top_k), "0 or more");
  check(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "a number in (0, 1]");
  check(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "a number in [0, 1]");
  check(o.repeat_penalty > 0, "repeat_penalty", o.repeat_penalty, "a positive number");
}

/// Draws the next token from logits. The order is: penalty, temperature, top-k, top-p, min-p; equal
/// logits go by token id, so a seed gives the same text everywhere the logits are the same.
class sampler {
 public:
  explicit sampler(sampler_options options = {}) : options_(options), random_(options.seed) {
    validate(options);
  }

  const sampler_options& options() const { return options_; }

  /// @param generated  tokens that the penalty acts on
  /// A logit of +inf is certain, or as likely as the others of +inf; NaN and -inf are never drawn.
  /// @throws argument_error if there is no other logit.
  token_t operator()(std::span<const float> logits, std::span<const token_t> generated = {}) {
    logits_.assign(logits.begin(), logits.end());
    penalise(generated);
    if (options_.temperature == 0) return best();
    gather_candidates();
    return draw();
  }

 private:
  struct candidate {
    token_t token;
    double weight;  ///< Not normalised probability.
  };

  void penalise(std::span<const token_t> generated) {
    if (options_.repeat_penalty == 1.0) return;
    std::vector<token_t> seen(generated.begin(), generated.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    const auto penalty = static_cast<float>(options_.repeat_penalty);
    for (const token_t t : seen) {
      if (t < 0 || static_cast<std::size_t>(t) >= logits_.size()) continue;
      float& l = logits_[static_cast<std::size_t>(t)];
      l = l > 0 ? l / penalty : l * penalty;
    }
  }

  token_t best() const {
    std::size_t at = logits_.size();
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      if (std::isnan(logits_[i])) continue;
      if (at == logits_.size() || logits_[i] > logits_[at]) at = i;
    }
    if (at == logits_.size() || logits_[at] == -std::numeric_limits<float>::infinity()) no_token();
    return static_cast<token_t>(at);
  }

  void gather_candidates() {
    const double top = static_cast<double>(logits_[static_cast<std::size_t>(best())]);
    candidates_.clear();
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      const auto logit = static_cast<double>(logits_[i]);
      if (std::isnan(logit) || logit == -std::numeric_limits<double>::infinity()) continue;
      const double scaled = logit == top ? 0 : (logit - top) / options_.temperature;
      candidates_.push_back({static_cast<token_t>(i), std::exp(scaled)});
    }
    std::sort(candidates_.begin(), candidates_.end(), [](const candidate& a, const candidate& b) {
      return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
    });
    if (options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < candidates_.size()) {
      candidates_.resize(static_cast<std::size_t>(options_.top_k));
    }
    if (options_.top_p < 1) {
      double total = 0;
      for (const candidate& c : candidates_) total += c.weight;
      double sum = 0;
      std::size_t keep = 0;
      while (keep < candidates_.size() && sum < options_.top_p * total) {
        sum += candidates_[keep++].weight;
      }
      candidates_.resize(std::max<std::size_t>(keep, 1));
    }
    // The best candidate weighs 1, so weights are already relative to it.
    std::erase_if(candidates_, [&](const candidate& c) { return c.weight < options_.min_p; });
  }

  token_t draw() {
    double total = 0;
    for (const candidate& c : candidates_) total += c.weight;
    double at = random_.uniform() * total;
    for (const candidate& c : candidates_) {
      at -= c.weight;
      if (at < 0) return c.token;
    }
    return candidates_.back().token;
  }

  [[noreturn]] static void no_token() {
    throw argument_error("sampler: no token has a finite logit");
  }

  sampler_options options_;
  random_generator random_;
  std::vector<float> logits_;
  std::vector<candidate> candidates_;
};

}  // namespace gistkv::model
