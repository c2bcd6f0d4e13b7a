// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include <gistkv/text/english_list_marker.hpp>
#include <gistkv/text/english_nesting.hpp>
#include <gistkv/text/english_window.hpp>
#include <gistkv/text/english_words.hpp>
#include <gistkv/text/unicode.hpp>

/// What the English rule reads in front of a place: marks, closing signs, white space, what
/// follows. All functions may leave the window starved; their result then means nothing.

namespace gistkv::text::detail {

/// Punctuation that may end a sentence.
constexpr bool is_mark(char32_t c) {
  if (c < 0x80) return c == '.' || c == '!' || c == '?';
  const sentence_break b = sentence_break_of(c);
  return c == 0x2026 || b == sentence_break::s_term || b == sentence_break::a_term;
}

/// Marks that end a sentence without white space behind them: those of other scripts.
constexpr bool is_immediate_mark(char32_t c) {
  return c >= 0x80 && c != 0x2026 && c != 0x2024 && c != 0x203C && (c < 0x2047 || c > 0x2049) &&
         is_mark(c);
}

constexpr bool is_bullet(char32_t c) {
  return c == 0x2022 || c == 0x2023 || c == 0x2043 || c == 0x25E6 || c == 0x25AA || c == 0x25AB ||
         c == 0x25CF || c == 0x25CB || c == 0x25A0 || c == 0x25A1 || c == 0x25BA || c == 0x25B6 ||
         c == 0x27A2 || c == 0x2756;
}

constexpr bool is_newline(char32_t c) {
  return (c >= 0xA && c <= 0xD) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

/// 'w' for an ASCII letter, digit or comma, ' ' for a space, else 0: bytes that decide nothing.
inline constexpr auto plain_bytes = [] {
  std::array<char, 256> kind{};
  for (std::size_t c = 0; c < 128; ++c) {
    const auto unit = static_cast<char32_t>(c);
    kind[c] = is_letter(unit) || is_number(unit) || unit == ',' ? 'w' : unit == ' ' ? ' ' : '\0';
  }
  return kind;
}();

/// A run of marks; full stops that single spaces part (`. . .`) are one run.
struct mark_run {
  std::size_t end = 0;
  std::size_t first_end = 0;  ///< Behind the first mark.
  int n_stops = 0;
  bool only_stops = true;
  bool spaced = false;
  char32_t last = 0;

  bool single_stop() const { return only_stops && n_stops == 1; }
};

inline mark_run read_marks(text_window& window, std::size_t i) {
  mark_run run;
  run.end = i;
  for (decoded unit = window.look(i); is_mark(unit.code_point); unit = window.look(run.end)) {
    const bool stop = unit.code_point == '.';
    run.n_stops += stop;
    run.only_stops = run.only_stops && stop;
    run.last = unit.code_point;
    run.end += static_cast<std::size_t>(unit.length);
    if (run.first_end == 0) run.first_end = run.end;
    const decoded gap = window.look(run.end);
    if (!run.only_stops || (gap.code_point != ' ' && gap.code_point != 0xA0)) continue;
    const std::size_t next = run.end + static_cast<std::size_t>(gap.length);
    if (window.peek(next) != '.') continue;
    const char32_t behind = window.peek(next + 1);
    if (is_number(behind) || is_letter(behind)) continue;  // ` .50`, ` .txt`
    run.spaced = true;
    run.end = next;
  }
  return run;
}

/// Skips `<name ...>` or `</name>` at i; returns i if there is none.
inline std::size_t skip_tag(text_window& window, std::size_t i, bool closing) {
  if (window.peek(i) != '<') return i;
  std::size_t p = i + 1;
  if ((window.peek(p) == '/') != closing) return i;
  if (closing) ++p;
  if (!is_letter(window.peek(p))) return i;
  for (std::size_t n = 0; n < 64; ++n) {
    const decoded unit = window.look(p);
    p += static_cast<std::size_t>(unit.length);
    if (unit.code_point == '>') return p;
    if (unit.length == 0 || unit.code_point == '<') return i;
  }
  return i;
}

/// Skips a reference such as `[12]` at i; returns i if there is none.
inline std::size_t skip_reference(text_window& window, std::size_t i) {
  if (window.peek(i) != '[') return i;
  std::size_t p = i + 1;
  while (p < i + 4 && is_number(window.peek(p))) ++p;
  return p > i + 1 && window.peek(p) == ']' ? p + 1 : i;
}

struct closing_run {
  std::size_t end = 0;
  bool quoted = false;  ///< A quotation mark is among them.
};

/// Quotation marks, brackets, emphasis and references that belong to the sentence before i. What
/// they close is closed in `open`.
inline closing_run read_closing(text_window& window, std::size_t i, nesting& open) {
  closing_run run{i};
  while (true) {
    const decoded unit = window.look(run.end);
    const char32_t c = unit.code_point;
    const std::size_t next = run.end + static_cast<std::size_t>(unit.length);
    if (is_closing_bracket(c)) {
      open.bracket(c, window.offset(run.end));
    } else if (c == '"' || c == 0x201C || c == 0x201D || c == 0xBB) {
      open.double_quote(0x201D, 0, window.offset(run.end));
      run.quoted = true;
    } else if (c == '\'' || c == '`' || c == 0x2019) {
      const char32_t behind = window.peek(next);
      if (is_letter(behind) || is_number(behind)) return run;
      open.close_single();
      run.quoted = true;
    } else if (c != '*' && c != '_' && c != '~') {
      std::size_t skipped = skip_reference(window, run.end);
      if (skipped == run.end) skipped = skip_tag(window, run.end, true);
      if (skipped == run.end) return run;
      run.end = skipped;
      continue;
    }
    run.end = next;
  }
}

struct gap_run {
  std::size_t end = 0;
  int n_newlines = 0;    ///< CR LF is one; a paragraph separator and a form feed are two.
  bool endless = false;  ///< It passes what may be looked at.
};

inline gap_run read_gap(text_window& window, std::size_t i) {
  gap_run gap{i};
  bool after_cr = false;
  for (decoded unit = window.look(i); unit.length > 0 && is_space(unit.code_point);
       unit = window.look(gap.end)) {
    const char32_t c = unit.code_point;
    if (is_newline(c)) {
      gap.n_newlines += c == '\n' && after_cr ? 0 : c == 0x2029 || c == '\f' ? 2 : 1;
    }
    after_cr = c == '\r';
    gap.end += static_cast<std::size_t>(unit.length);
  }
  gap.endless = window.at_cap(gap.end);
  return gap;
}

/// What the next sentence, if it is one, begins with.
struct following {
  enum class kind { nothing, continuation, bullet, small, capital, number };

  kind first = kind::nothing;
  std::size_t word = 0;  ///< Index of the first letter or digit.
  bool in_bracket = false;
  bool in_quotes = false;
};

/// Reads over opening signs and symbols to the first letter or digit behind i.
inline following read_following(text_window& window, std::size_t i) {
  following result;
  std::size_t p = i;
  for (int n = 0; n < 24; ++n) {
    const std::size_t tag = skip_tag(window, p, false);
    if (tag != p) {
      p = tag;
      continue;
    }
    const decoded unit = window.look(p);
    const char32_t c = unit.code_point;
    const std::size_t next = p + static_cast<std::size_t>(unit.length);
    result.word = p;
    if (unit.length == 0 || is_newline(c)) return result;
    if (is_letter(c)) {
      // A brand such as iPhone or eBay begins a sentence as it is.
      const bool small = is_lowercase(c) && !is_uppercase(window.peek(next));
      result.first = small ? following::kind::small : following::kind::capital;
      return result;
    }
    if (is_number(c)) {
      result.first = following::kind::number;
      return result;
    }
    if (is_bullet(c)) {
      result.first = following::kind::bullet;
      return result;
    }
    if (p == i && (c == ',' || c == ';' || c == ':' || c == 0x2026 || c == 0x3001)) {
      result.first = following::kind::continuation;
      return result;
    }
    result.in_bracket = result.in_bracket || is_opening_bracket(c);
    result.in_quotes = result.in_quotes || is_double_quote(c) || is_single_quote(c);
    p = next;
  }
  return result;
}

/// The word of letters and inner apostrophes at i, at most 24 bytes of it, and where it ends.
struct read_word {
  std::array<char, 24> letters{};
  std::size_t size = 0;
  std::size_t end = 0;

  read_word(text_window& window, std::size_t i) : end(i) {
    while (size + 4 <= letters.size()) {
      const decoded unit = window.look(end);
      const bool apostrophe = unit.code_point == '\'' || unit.code_point == 0x2019;
      if (!is_letter(unit.code_point) && !(apostrophe && size > 0)) return;
      if (apostrophe) {
        letters[size++] = '\'';
      } else {
        for (index_t k = 0; k < unit.length; ++k) {
          letters[size++] = window[end + static_cast<std::size_t>(k)];
        }
      }
      end += static_cast<std::size_t>(unit.length);
    }
  }
  std::string_view view() const { return {letters.data(), size}; }
  english_words::folded folded() const { return english_words::folded(view()); }
};

/// The list marker at i with white space behind it: `2.`, `b)`, `(iv)`, `10.)`.
inline list_marker marker_ahead(text_window& window, std::size_t i) {
  const bool bracket = window.peek(i) == '(';
  const std::size_t begin = i + bracket;
  std::array<char, 8> token{};
  std::size_t size = 0;
  char32_t c = window.peek(begin);
  while (size < token.size() && c < 0x80 && (is_letter(c) || is_number(c))) {
    token[size++] = static_cast<char>(c);
    c = window.peek(begin + size);
  }
  std::size_t p = begin + size;
  using style = list_marker::punctuation;
  const bool stop = c == '.' && !bracket;
  if (stop) ++p;
  const bool closed = window.peek(p) == ')';
  if (closed) ++p;
  if ((!stop && !closed) || (bracket && !closed) || !is_space(window.peek(p))) return {};
  return read_list_marker({token.data(), size}, bracket          ? style::brackets
                                                : stop && closed ? style::stop_bracket
                                                : stop           ? style::stop
                                                                 : style::bracket);
}

/// The list marker that the bracket at index `end` closes; sets `begin` to its first character.
inline list_marker marker_behind(const text_window& window, std::size_t end, std::size_t& begin) {
  const bool stop = window.before(end) == '.';
  const std::string_view token = window.word_before(end - stop);
  begin = end - stop - token.size();
  const bool brackets = window.before(begin) == '(' && !stop;
  begin -= brackets;
  using style = list_marker::punctuation;
  return read_list_marker(token, brackets ? style::brackets
                                 : stop   ? style::stop_bracket
                                          : style::bracket);
}

}  // namespace gistkv::text::detail
