// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gistkv/core/types.hpp>
#include <gistkv/text/english_window.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::text::detail {

constexpr bool is_double_quote(char32_t c) {
  return c == '"' || c == 0x201C || c == 0x201D || c == 0x201E || c == 0x201F || c == 0xAB ||
         c == 0xBB;
}
constexpr bool is_single_quote(char32_t c) {
  return c == '\'' || c == 0x2018 || c == 0x2019 || c == 0x201A || c == 0x201B || c == '`';
}
constexpr bool is_opening_bracket(char32_t c) {
  if (c >= 0x3008 && c <= 0x3011) return c % 2 == 0;
  return c == '(' || c == '[' || c == '{' || c == 0xFF08;
}
constexpr bool is_closing_bracket(char32_t c) {
  if (c >= 0x3008 && c <= 0x3011) return c % 2 == 1;
  return c == ')' || c == ']' || c == '}' || c == 0xFF09;
}
constexpr bool is_dash(char32_t c) { return c == '-' || (c >= 0x2010 && c <= 0x2015); }

/// Which quotations and brackets are open. No sentence ends inside one, so a mark that never finds
/// its partner must not count for ever: it is forgotten after some hundred bytes, and at the end of
/// a paragraph.
class nesting {
 public:
  bool open_at(index_t offset) const {
    return within(double_, offset, 800) || within(bracket_, offset, 800) ||
           within(single_, offset, 300);
  }
  bool single_open(index_t offset) const { return within(single_, offset, 300); }

  void open_single(index_t offset) { single_ = offset; }
  void close_single() { single_ = none; }

  /// A double quotation mark. A straight one opens behind white space, an opening mark, or,
  /// unless one is open, a dash;
  /// `before` is the character in front of it.
  void double_quote(char32_t mark, char32_t before, index_t offset) {
    const bool is_open = within(double_, offset, 800);
    const bool room = before == end_of_text || is_space(before) || is_opening_bracket(before) ||
                      (is_dash(before) && !is_open) || before == '*' || before == '_' ||
                      before == 0x2018 || before == '\'';
    const bool opens = mark == 0xAB || mark == 0x201E || (mark == 0x201C && (room || !is_open)) ||
                       (mark != 0xBB && mark != 0x201D && mark != 0x201C && room);
    double_ = opens ? offset : none;
  }

  void bracket(char32_t mark, index_t offset) {
    if (is_opening_bracket(mark)) {
      if (depth_ == 0 || !within(bracket_, offset, 800)) bracket_ = offset, depth_ = 0;
      ++depth_;
    } else if (depth_ > 0 && --depth_ == 0) {
      bracket_ = none;
    }
  }

 private:
  static constexpr index_t none = -1;
  static constexpr bool within(index_t begin, index_t offset, index_t reach) {
    return begin != none && offset - begin <= reach;
  }

  index_t double_ = none;
  index_t single_ = none;
  index_t bracket_ = none;
  index_t depth_ = 0;
};

}  // namespace gistkv::text::detail
