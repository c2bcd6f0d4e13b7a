// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <gistkv/text/english_list_marker.hpp>
#include <gistkv/text/english_words.hpp>

namespace gistkv::text::detail {

/// What a word in front of a full stop says about it. In parentheses: whether the sentence ends
/// there if a capital letter follows.
enum class stop_word {
  ordinary,      ///< (yes)
  title,         ///< `Mr.` (no)
  never_final,   ///< `e.g.` (no)
  measure,       ///< `ft.` (yes; no in front of a number)
  number_label,  ///< `p.` (yes, unless a number follows)
  may_be_final,  ///< `Inc.` (if a word follows that begins sentences)
  initial,       ///< `E.` (likewise)
  acronym,       ///< `U.S.` (likewise)
  clock_time     ///< `p.m.` (yes, unless it belongs to what follows)
};

namespace english_words {

constexpr bool is_ascii_letter(char c) { return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z'); }
constexpr bool is_small(std::string_view word) {
  return std::none_of(word.begin(), word.end(), [](char c) { return 'A' <= c && c <= 'Z'; });
}

/// Single letters, or short groups with a capital, with full stops between: `U.S`, `p.m`, `Ph.D`;
/// not `example.com` or `a.py`.
constexpr bool is_acronym(std::string_view word) {
  std::size_t in_group = 0;
  bool stop = false;
  bool capital = false;
  for (const char c : word) {
    if (c == '.') {
      if (in_group == 0) return false;
      stop = true;
      in_group = 0;
    } else if (!is_ascii_letter(c) || ++in_group > 3 || (in_group == 2 && !capital)) {
      return false;
    } else if (in_group == 1) {
      capital = 'A' <= c && c <= 'Z';
    }
  }
  return stop && in_group > 0;
}

/// Kind of the word in front of a full stop, which is not part of `word`.
constexpr stop_word classify(std::string_view word) {
  while (!word.empty() && word.front() == '\'') word.remove_prefix(1);
  const folded small(word);
  if (small.view() == "a.m" || small.view() == "p.m") return stop_word::clock_time;
  if (word.size() == 1 && is_ascii_letter(word[0])) {
    // `p.` and `v.` stand in front of numbers, other small letters for themselves.
    return small.in(number_labels) && is_small(word) ? stop_word::number_label : stop_word::initial;
  }
  if (small.in(never_final)) return stop_word::never_final;
  if (small.in(titles)) return stop_word::title;
  if (small.in(may_be_final)) {
    if (!is_small(word) || small.in(may_be_final_small)) return stop_word::may_be_final;
  }
  if (small.in(measures)) return stop_word::measure;
  if (small.in(number_labels)) return stop_word::number_label;
  return is_acronym(word) ? stop_word::acronym : stop_word::ordinary;
}

/// Whether a number behind the full stop belongs to the word, rather than to a list.
constexpr bool labels_number(std::string_view word) {
  const stop_word what = classify(word);
  return what == stop_word::number_label || what == stop_word::title ||
         what == stop_word::never_final;
}

}  // namespace english_words
}  // namespace gistkv::text::detail
