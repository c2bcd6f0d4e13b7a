// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include <gistkv/text/english_abbreviation.hpp>
#include <gistkv/text/english_list_marker.hpp>
#include <gistkv/text/english_reader.hpp>
#include <gistkv/text/english_window.hpp>
#include <gistkv/text/english_words.hpp>

/// Decisions of the English rule that ask for words. All may leave the window starved; their result
/// then means nothing.

namespace gistkv::text::detail {

/// Whether a full stop behind `word` ends a sentence when a capital letter or digit follows white
/// space. `opens_with_time`: the sentence so far is an adverbial such as `At 5 a.m`.
inline bool stop_ends_sentence(text_window& window, std::string_view word, const following& after,
                               bool opens_with_time) {
  const stop_word what = english_words::classify(word);
  if (what == stop_word::ordinary) return true;
  if (after.first == following::kind::number) return false;
  const read_word next(window, after.word);
  const bool next_initial = next.size == 1 && window.peek(next.end) == '.';
  const bool starter = !next_initial && next.folded().in(english_words::starters);
  switch (what) {
    case stop_word::title:
      return starter && english_words::is_small(word);
    case stop_word::number_label:
      if (next.size > 1) return roman_value(next.view()) == 0;
      // `Vol. I`, `Fig. A`; but `He said no. I did not.`
      return starter && english_words::folded(word).view() == "no";
    case stop_word::initial:
      return starter && !after.in_quotes;
    case stop_word::acronym:
      return starter || (after.in_quotes && !after.in_bracket);
    case stop_word::may_be_final:
      return (starter || after.in_quotes) && !after.in_bracket;
    case stop_word::clock_time:
      return !next.folded().in(english_words::after_clock_time) && !opens_with_time;
    case stop_word::ordinary:
    case stop_word::measure:
      return true;
    case stop_word::never_final:
      break;
  }
  return false;
}

/// `Alice asked`, `I said`, `Mr. Smith said` at index i: a name, up to three words, and a verb of
/// saying. A pronoun other than I begins a sentence of its own.
inline bool names_speaker(text_window& window, std::size_t i) {
  for (int n = 0; n < 4; ++n) {
    const read_word word(window, i);
    if (word.size == 0) return false;
    const english_words::folded small = word.folded();
    if (n > 0 && small.in(english_words::reporting_verbs)) return true;
    if (!is_uppercase(decode_utf8(word.view()).code_point)) return false;
    if (word.view() != "I" && small.in(english_words::starters)) return false;
    i = word.end;
    if (window.peek(i) == '.') ++i;
    if (window.peek(i) != ' ') return false;
    ++i;
  }
  return false;
}

/// `world.Today is`: behind a full stop at `stop`, and `next` behind it, no white space, yet two
/// sentences: plain words on both sides. `word` is the one in front.
inline bool is_run_on(text_window& window, std::string_view word, std::size_t stop,
                      std::size_t next) {
  const auto is_small = [](char c) { return 'a' <= c && c <= 'z'; };
  const auto is_digit = [](char c) { return '0' <= c && c <= '9'; };
  const bool number = !word.empty() && std::all_of(word.begin(), word.end(), is_digit);
  if (word.size() < 2) return false;
  if (!number && !std::all_of(word.begin() + 1, word.end(), is_small)) return false;
  if (english_words::classify(word) != stop_word::ordinary) return false;
  const std::size_t begin = stop - word.size();
  const char32_t in_front = window.before(begin);
  const bool after_stop = in_front == '.' || in_front == '!' || in_front == '?';
  if (!is_space(in_front) && in_front != end_of_text && !after_stop &&
      !(number && in_front == ',')) {
    return false;
  }
  const read_word after(window, next);
  if (after.size < 2 || !is_uppercase(window.peek(next))) return false;
  const std::string_view rest = after.view().substr(1);
  if (!std::all_of(rest.begin(), rest.end(), is_small)) return false;
  char32_t end = window.peek(after.end);
  if (end == ',' || is_mark(end)) end = window.peek(after.end + 1);
  // `Monday.Mr. Smith`, `end.The next.Then`
  return is_space(end) || end == end_of_text || is_uppercase(end);
}

/// `consultation.11 12 Take`: numbers of notes directly behind the full stop at `stop` and in front
/// of white space and a capital letter. Returns the index behind them, or 0.
inline std::size_t skip_note_numbers(text_window& window, std::string_view word, std::size_t stop) {
  const bool behind_bracket = is_closing_bracket(window.before(stop));
  const auto is_letter_byte = [](char c) { return english_words::is_ascii_letter(c); };
  const bool behind_word = word.size() > 2 &&
                           std::all_of(word.begin(), word.end(), is_letter_byte) &&
                           english_words::classify(word) == stop_word::ordinary;
  if (!behind_bracket && !behind_word) return 0;
  std::size_t end = stop + 1;
  while (true) {
    std::size_t p = end;
    while (p < end + 3 && window.peek(p) < 0x80 && is_number(window.peek(p))) ++p;
    if (p == end) return 0;
    end = p;
    const char32_t gap = window.peek(end);
    const char32_t behind = window.peek(end + 1);
    if (gap == ',' && is_number(behind)) {
      ++end;
    } else if (!is_space(gap)) {
      return 0;
    } else if (is_uppercase(behind)) {
      return end;
    } else {
      ++end;
    }
  }
}

/// White space at index i and then a capital letter, in a quotation or not, which does not begin
/// the name of a speaker.
inline bool begins_sentence(text_window& window, std::size_t i) {
  const gap_run gap = read_gap(window, i);
  return gap.end > i && read_following(window, gap.end).first == following::kind::capital &&
         !names_speaker(window, gap.end);
}

/// An adverbial such as `At about 5 a.m`.
inline bool is_time_adverbial(std::string_view opening) {
  return std::count(opening.begin(), opening.end(), ' ') <= 4 &&
         english_words::folded(opening.substr(0, opening.find(' ')))
             .in(english_words::time_prepositions);
}

/// `compounds. . . . The`: the full stop, and the omission of what began the next sentence.
inline bool ends_at_first_stop(const text_window& window, const mark_run& marks,
                               std::size_t begin) {
  return marks.only_stops && marks.spaced && marks.n_stops == 4 &&
         !is_space(window.before(begin)) && window[marks.first_end] == ' ';
}

/// Whether the line that ends at index `end` asks for the next one.
inline bool line_hangs(const text_window& window, std::size_t end) {
  const char32_t last = window.before(end);
  return last == ',' || last == ';' || last == '&' || is_dash(last) ||
         english_words::folded(window.word_before(end)).in(english_words::hanging);
}

/// Whether a line without a mark at its end, before a single newline, is a heading, an item or the
/// like. It has `length` bytes and ends at offset `text_end`; the next line begins at index `next`.
inline bool line_ends_sentence(text_window& window, index_t length, index_t text_end,
                               std::size_t next) {
  constexpr index_t short_line = 55;  // Hard line ends of prose come later.
  const char32_t c = window.peek(next);
  const bool dash_item = (c == '-' || c == '*' || c == '+') && is_space(window.peek(next + 1));
  if (dash_item || c == '#' || c == '|' || marker_ahead(window, next)) return true;
  const following after = read_following(window, next);
  if (after.first == following::kind::bullet) return true;
  if (after.first == following::kind::small || after.first == following::kind::continuation) {
    return false;
  }
  if (length > short_line) return false;
  const bool padded = window.offset(window.at) - text_end > 16;
  return padded || !line_hangs(window, window.index(text_end));
}

}  // namespace gistkv::text::detail
