// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/types.hpp>
#include <gistkv/text/boundary.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::text {

/// What a number of gists a sentence would make of a text.
struct compression_forecast {
  index_t n_gist = 0;       ///< Gists a sentence.
  index_t gist_tokens = 0;  ///< n_gist * number of closed sentences.
  double ratio = 0;         ///< R = regular tokens / gist tokens; 0 if there is no gist at all.
  /// Regular tokens of the text / rows that stay: gists and the open sentence. 0 for an empty text.
  double held_ratio = 0;

  friend bool operator==(const compression_forecast&, const compression_forecast&) = default;
};

/// How well a text suits sentence-anchored compression under a segmenter.
struct text_diagnostics {
  index_t n_bytes = 0;
  index_t n_tokens = 0;         ///< Regular tokens, those of inserted bytes included.
  index_t n_sentences = 0;      ///< Closed sentences, those cut by max_tokens included.
  index_t open_tokens = 0;      ///< Regular tokens behind the last boundary: they stay as they are.
  index_t longest_bytes = 0;    ///< Longest stretch between boundaries of the text, or its ends.
  index_t longest_tokens = 0;   ///< Regular tokens of the longest sentence, open or closed.
  double longest_share = 0;     ///< longest_tokens / n_tokens: 1 = the text is one sentence.
  bool has_terminator = false;  ///< Some character has Sentence_Break ATerm or STerm.
  bool has_boundary = false;    ///< The segmenter finds a sentence end in the text itself.
  std::vector<compression_forecast> forecasts;  ///< In the order asked for.
};

/// Examines a text. `n_gists` are the numbers of gists a sentence to forecast, each >= 0.
template <Segmenter S, Tokenize T>
text_diagnostics diagnose(std::string_view text, S segmenter, T&& tokenize,
                          std::span<const index_t> n_gists) {
  text_diagnostics result;
  result.n_bytes = static_cast<index_t>(text.size());
  index_t begin = 0;
  for (const boundary& b : boundaries(segmenter, text)) {
    result.has_boundary = true;
    result.longest_bytes = std::max(result.longest_bytes, b.offset - begin);
    begin = b.offset;
  }
  result.longest_bytes = std::max(result.longest_bytes, result.n_bytes - begin);
  for (std::size_t i = 0; i < text.size() && !result.has_terminator;) {
    const decoded unit = decode_utf8(text.substr(i));
    const sentence_break b = sentence_break_of(unit.code_point);
    result.has_terminator = b == sentence_break::a_term || b == sentence_break::s_term;
    i += static_cast<std::size_t>(unit.length);
  }

  // One gist a sentence is enough to count; its id is one that no tokenizer gives.
  constexpr token_t gist = std::numeric_limits<token_t>::max();
  const gist_layout layout = lay_out(text, std::move(segmenter), 1, gist, tokenize);
  result.n_tokens = layout.n_regular;
  result.n_sentences = layout.n_sentences;
  for (const std::uint8_t is_gist : layout.is_gist) {
    result.open_tokens = is_gist ? 0 : result.open_tokens + 1;
    result.longest_tokens = std::max(result.longest_tokens, result.open_tokens);
  }
  const auto ratio = [](index_t over, index_t under) {
    return under > 0 ? static_cast<double>(over) / static_cast<double>(under) : 0.0;
  };
  result.longest_share = ratio(result.longest_tokens, result.n_tokens);
  for (const index_t n : n_gists) {
    const index_t gists = n * result.n_sentences;
    // Without gists nothing is evicted.
    const index_t held = n > 0 ? gists + result.open_tokens : result.n_tokens;
    result.forecasts.push_back(
        {n, gists, ratio(result.n_tokens, gists), ratio(result.n_tokens, held)});
  }
  return result;
}

}  // namespace gistkv::text
