// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include <gistkv/core/types.hpp>

namespace gistkv::text::detail {

/// The numbering of a list item, such as `2.`, `b)`, `(iv)` or `10.)`.
struct list_marker {
  enum class numbering { none, digits, small, capital };
  enum class punctuation { stop, bracket, stop_bracket, brackets };

  numbering kind = numbering::none;
  punctuation style = punctuation::stop;
  index_t number = 0;  ///< Of the digits or of the letter in the alphabet; 0 = no such reading.
  index_t roman = 0;   ///< As a Roman numeral, up to 39; 0 = it is none.

  explicit operator bool() const { return kind != numbering::none; }

  /// Whether it is the item behind `last`.
  bool follows(const list_marker& last) const {
    return kind == last.kind && style == last.style && kind != numbering::none &&
           ((last.number > 0 && number == last.number + 1) ||
            (last.roman > 0 && roman == last.roman + 1));
  }
  /// Whether a list begins with it.
  bool first() const { return number == 1 || roman == 1; }
};

/// Value of a Roman numeral of the letters I, V and X, all small or all capital; 0 if it is none.
constexpr index_t roman_value(std::string_view numeral) {
  index_t value = 0;
  index_t next = 0;
  bool small = false;
  if (numeral.empty() || numeral.size() > 7) return 0;
  for (std::size_t i = numeral.size(); i-- > 0;) {
    const char c = numeral[i];
    const bool is_small = c >= 'a';
    if (i + 1 < numeral.size() && is_small != small) return 0;
    small = is_small;
    const char letter = is_small ? c : static_cast<char>(c - 'A' + 'a');
    const index_t digit = letter == 'i' ? 1 : letter == 'v' ? 5 : letter == 'x' ? 10 : 0;
    if (digit == 0) return 0;
    value += digit < next ? -digit : digit;
    next = digit < next ? next : digit;
  }
  return value > 0 && value < 40 ? value : 0;
}

/// Reads the token between brackets and stops: one to three digits, a letter, a Roman numeral.
constexpr list_marker read_list_marker(std::string_view token, list_marker::punctuation style) {
  list_marker marker;
  marker.style = style;
  if (token.empty()) return marker;
  const auto all = [&](char low, char high) {
    for (const char c : token) {
      if (c < low || c > high) return false;
    }
    return true;
  };
  if (all('0', '9')) {
    if (token.size() > 3) return marker;
    for (const char c : token) marker.number = 10 * marker.number + (c - '0');
    marker.kind = list_marker::numbering::digits;
    return marker;
  }
  const bool small = all('a', 'z');
  if (!small && !all('A', 'Z')) return marker;
  if (token.size() == 1) marker.number = token[0] - (small ? 'a' : 'A') + 1;
  marker.roman = roman_value(token);
  if (marker.number > 0 || marker.roman > 0) {
    marker.kind = small ? list_marker::numbering::small : list_marker::numbering::capital;
  }
  return marker;
}

/// The list that a text is in.
class list_state {
 public:
  /// Whether `item` is the one behind the last.
  bool goes_on(const list_marker& item) const { return item.follows(last_); }
  bool began_at(index_t offset) const { return last_ && at_ == offset; }

  /// Whether `item` at `offset` is a list item, and notes it. In front of a sentence or line every
  /// marker is; inside a line one that continues the list or, if bracketed, begins a new one.
  bool accepts(const list_marker& item, index_t offset, bool begins_sentence, bool begins_line) {
    constexpr index_t reach = 400;
    const bool stop = item.style == list_marker::punctuation::stop;
    const bool initial = stop && item.kind == list_marker::numbering::capital;  // `A. Smith`
    const bool near = last_ && offset - at_ <= reach;
    const bool inside = near && (goes_on(item) || (!stop && item.kind == last_.kind &&
                                                   last_.number > 1 && item.number == 1));
    if (!begins_sentence && (initial || (!inside && !begins_line))) return false;
    if (!initial) {
      last_ = item;
      at_ = offset;
    }
    return true;
  }

 private:
  list_marker last_;
  index_t at_ = 0;
};

}  // namespace gistkv::text::detail
