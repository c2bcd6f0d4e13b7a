// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>

/// What a sample of GMSA consists of: how texts are cut, what is to be learned, which rates are
/// drawn from. Tokens only; there is no chat template and no special token but the end of the text.

namespace gistkv::gmsa {

/// Tokens that are left of a context and a prompt.
struct cut_lengths {
  index_t context = 0;
  index_t prompt = 0;
};

/// The prompt is cut to max_length, the context to what that leaves.
/// @throws argument_error for a max_length below 1.
inline cut_lengths cut(index_t n_context, index_t n_prompt, index_t max_length) {
  if (max_length < 1) {
    throw argument_error("gmsa: max_length is " + std::to_string(max_length) +
                         ", expected 1 or more");
  }
  const index_t prompt = std::min(n_prompt, max_length);
  return {std::min(n_context, max_length - prompt), prompt};
}

/// What a decoder learns from: soft tokens of `context` and the prompt are given, `labels` follow.
struct sample {
  std::vector<token_t> context;
  std::vector<token_t> prompt;
  std::vector<token_t> labels;
};

/// How the context of an autoencoding sample is cut.
enum class restoring_cut {
  whole,     ///< So that prompt, context and eos fit: nothing is to be restored that was not read.
  official,  ///< As the official code does: up to a prompt's length of the labels was never read,
             ///< and eos is lost on long texts. For comparison with it only.
};

/// Stage 1: the context itself and eos are the labels. @throws argument_error as cut.
inline sample restoring_sample(std::span<const token_t> context, std::span<const token_t> prompt,
                               token_t eos, index_t max_length,
                               restoring_cut how = restoring_cut::whole) {
  const auto n = static_cast<index_t>(context.size());
  cut_lengths left = cut(n, static_cast<index_t>(prompt.size()), max_length);
  index_t n_labels = std::min(n, max_length);
  if (how == restoring_cut::whole) {
    left.context = std::min(left.context, std::max<index_t>(max_length - left.prompt - 1, 0));
    n_labels = left.context;
  }
  const auto first = [](std::span<const token_t> all, index_t count) {
    return std::vector<token_t>(all.begin(), all.begin() + count);
  };
  sample s{first(context, left.context), first(prompt, left.prompt), first(context, n_labels)};
  if (how == restoring_cut::whole || n_labels < max_length) s.labels.push_back(eos);
  return s;
}

/// The first answer that is more than white space; it is learned as it stands.
/// @throws argument_error if there is none.
inline std::string_view first_answer(std::span<const std::string> answers) {
  for (const std::string& a : answers) {
    if (a.find_first_not_of(" \t\n\v\f\r") != std::string::npos) return a;
  }
  throw argument_error("gmsa: no answer of " + std::to_string(answers.size()) +
                       " is more than white space");
}

/// Rates from a list like "4,8": in their order, each once.
/// @throws argument_error unless there is one, and all are numbers above 0.
inline std::vector<index_t> parse_rates(std::string_view list) {
  std::vector<index_t> rates;
  const auto fail = [&] {
    throw argument_error("gmsa: rates are '" + std::string(list) +
                         "', expected numbers above 0 with commas between");
  };
  for (std::string_view rest = list; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    std::string_view item = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    const std::size_t begin = std::min(item.find_first_not_of(' '), item.size());
    item.remove_prefix(begin);
    item = item.substr(0, item.find_last_not_of(' ') + 1);
    if (item.empty()) continue;
    index_t rate = 0;
    const auto [end, failure] = std::from_chars(item.data(), item.data() + item.size(), rate);
    if (failure != std::errc{} || end != item.data() + item.size() || rate < 1) fail();
    if (std::ranges::find(rates, rate) == rates.end()) rates.push_back(rate);
  }
  if (rates.empty()) fail();
  return rates;
}

}  // namespace gistkv::gmsa
