// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/error.hpp>

/// Scores of written answers. Letters, punctuation and white space are those of ASCII; other bytes
/// count as parts of words and keep their case.

namespace gistkv::eval {

namespace detail {

constexpr bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}
constexpr bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace detail

/// Words of an answer as SQuAD compares them (Rajpurkar et al. 2016): lower case, no punctuation,
/// no articles a, an, the, in this order.
inline std::vector<std::string> answer_words(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  auto end_word = [&] {
    if (!word.empty() && word != "a" && word != "an" && word != "the") words.push_back(word);
    word.clear();
  };
  for (const char c : text) {
    if (detail::is_space(c)) {
      end_word();
    } else if (!detail::is_punctuation(c)) {
      word += detail::lower(c);
    }
  }
  end_word();
  return words;
}

/// answer_words, joined by single spaces.
inline std::string normalized_answer(std::string_view text) {
  std::string joined;
  for (const std::string& word : answer_words(text)) {
    joined += (joined.empty() ? "" : " ") + word;
  }
  return joined;
}

/// 1 if both have the same words in the same order, else 0.
inline double exact_match(std::string_view answer, std::string_view reference) {
  return answer_words(answer) == answer_words(reference) ? 1.0 : 0.0;
}

/// F1 of the multisets of words. If one side has none: 1 if both have none, else 0.
inline double token_f1(std::string_view answer, std::string_view reference) {
  const std::vector<std::string> a = answer_words(answer);
  const std::vector<std::string> r = answer_words(reference);
  if (a.empty() || r.empty()) return a.empty() && r.empty() ? 1.0 : 0.0;
  std::map<std::string_view, int> left;
  for (const std::string& word : r) ++left[word];
  double common = 0;
  for (const std::string& word : a) {
    if (left[word]-- > 0) common += 1;
  }
  if (common == 0) return 0.0;
  const double precision = common / static_cast<double>(a.size());
  const double recall = common / static_cast<double>(r.size());
  return 2 * precision * recall / (precision + recall);
}

/// The best of a score over references, of which blank ones do not count.
/// @throws argument_error if none is left.
template <class Score>
double best_over(std::string_view answer, std::span<const std::string> references, Score&& score) {
  std::optional<double> best;
  for (const std::string& reference : references) {
    if (std::all_of(reference.begin(), reference.end(), detail::is_space)) continue;
    best = std::max(best.value_or(0.0), score(answer, std::string_view(reference)));
  }
  if (!best) throw argument_error("answer: no reference that is not blank");
  return *best;
}

/// 1 if the text contains the value.
inline double contains_match(std::string_view text, std::string_view value) {
  return text.find(value) != std::string_view::npos ? 1.0 : 0.0;
}

/// 1 if the first run of digits is the number.
inline double number_match(std::string_view text, std::string_view number) {
  const auto begin = std::find_if(text.begin(), text.end(), detail::is_digit);
  const auto end = std::find_if_not(begin, text.end(), detail::is_digit);
  return std::string_view(begin, end) == number ? 1.0 : 0.0;
}

/// 1 if what stands in front of the first ':' or '.' contains the words.
inline double words_match(std::string_view text, std::string_view words) {
  return contains_match(text.substr(0, text.find_first_of(":.")), words);
}

/// The first line that is not blank, without white space around it: models go on writing.
inline std::string first_line(std::string_view text) {
  while (!text.empty() && detail::is_space(text.front())) text.remove_prefix(1);
  text = text.substr(0, text.find('\n'));
  while (!text.empty() && detail::is_space(text.back())) text.remove_suffix(1);
  return std::string(text);
}

}  // namespace gistkv::eval
