// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <string_view>

#include <gistkv/core/types.hpp>
#include <gistkv/text/unicode_tables.hpp>

namespace gistkv::text {

/// Sentence_Break property (UAX #29, table 4). The numbers are those of the generated table.
enum class sentence_break : std::uint8_t {
  other,
  cr,
  lf,
  extend,
  sep,
  format,
  sp,
  lower,
  upper,
  o_letter,
  numeric,
  a_term,
  s_continue,
  s_term,
  close
};

/// First letter of the general category, as far as tokenizers ask for it.
enum class category : std::uint8_t { other, letter, number, mark };

/// The unit that stands for a byte which is no part of valid UTF-8. Above every code point, so that
/// it never equals one; all its properties are "other".
inline constexpr char32_t invalid_code_point = 0x110000;

/// A code point of a text and the bytes that it takes there. An invalid byte is a unit of length 1.
struct decoded {
  char32_t code_point = invalid_code_point;
  index_t length = 1;

  friend constexpr bool operator==(const decoded&, const decoded&) = default;
};

namespace detail {

/// Length that a lead byte announces; 0 for a byte that leads nothing.
constexpr index_t utf8_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/// Whether `byte` may follow `lead` directly: no overlong forms, surrogates or values past U+10FFFF
/// (Unicode 17, table 3-7).
constexpr bool utf8_second(unsigned char lead, unsigned char byte) {
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return low <= byte && byte <= high;
}

/// How many leading bytes belong to a well-formed sequence, complete or not; 0 if the first is bad.
constexpr index_t utf8_prefix(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const auto want = static_cast<std::size_t>(utf8_length(at(0)));
  std::size_t have = want == 0 ? 0 : 1;
  while (have < want && have < bytes.size() &&
         (have == 1 ? utf8_second(at(0), at(1)) : (at(have) & 0xC0) == 0x80)) {
    ++have;
  }
  return static_cast<index_t>(have);
}

/// Per page of 256 code points: the entry of the table that holds its first one.
constexpr auto unicode_pages() {
  std::array<std::uint16_t, 0x1102> pages{};
  std::size_t entry = 0;
  for (std::size_t page = 0; page < pages.size(); ++page) {
    while (entry + 1 < std::size(unicode_ranges) && unicode_ranges[entry + 1] >> 8 <= page << 8) {
      ++entry;
    }
    pages[page] = static_cast<std::uint16_t>(entry);
  }
  return pages;
}
inline constexpr auto unicode_page = unicode_pages();

constexpr std::uint8_t unicode_value_of_any(char32_t code_point) {
  if (code_point >= invalid_code_point) return 0;
  const std::size_t page = code_point >> 8;
  const auto* const begin = unicode_ranges + unicode_page[page];
  const auto* const end = unicode_ranges + unicode_page[page + 1] + 1;
  const std::uint32_t key = static_cast<std::uint32_t>(code_point) << 8 | 0xFFU;
  const std::uint32_t entry = *(std::upper_bound(begin, end, key) - 1);
  constexpr std::uint32_t taking_turns = 0x40;
  if ((entry & taking_turns) == 0) return static_cast<std::uint8_t>(entry);
  const bool upper = ((code_point ^ (entry >> 8)) & 1U) == 0;
  const auto letter_case = upper ? sentence_break::upper : sentence_break::lower;
  return static_cast<std::uint8_t>((entry & 0x30U) | static_cast<std::uint32_t>(letter_case));
}

/// The first 256 values, spread out: most text asks for nothing else.
constexpr auto unicode_low_values() {
  std::array<std::uint8_t, 256> values{};
  for (std::size_t c = 0; c < values.size(); ++c) {
    values[c] = unicode_value_of_any(static_cast<char32_t>(c));
  }
  return values;
}
inline constexpr auto unicode_low = unicode_low_values();

constexpr std::uint8_t unicode_value(char32_t code_point) {
  return code_point < unicode_low.size() ? unicode_low[code_point]
                                         : unicode_value_of_any(code_point);
}

}  // namespace detail

/// First unit of `bytes`, which must not be empty. A sequence that the end of `bytes` cuts off is
/// invalid byte by byte; ask `incomplete_utf8` where more may come.
constexpr decoded decode_utf8(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (lead < 0x80) return {lead, 1};
  const index_t length = detail::utf8_length(lead);
  if (length == 0 || detail::utf8_prefix(bytes) != length) return {};
  char32_t value = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < static_cast<std::size_t>(length); ++i) {
    value = value << 6 | (static_cast<unsigned char>(bytes[i]) & 0x3FU);
  }
  return {value, length};
}

/// Whether `bytes` is the beginning of one valid unit that needs further bytes.
constexpr bool incomplete_utf8(std::string_view bytes) {
  if (bytes.empty()) return false;
  const index_t length = detail::utf8_length(static_cast<unsigned char>(bytes[0]));
  const auto size = static_cast<index_t>(bytes.size());
  return size < length && detail::utf8_prefix(bytes) == size;
}

/// Sentence_Break of a code point, Unicode 17.0.0.
constexpr sentence_break sentence_break_of(char32_t code_point) {
  return static_cast<sentence_break>(detail::unicode_value(code_point) & 0x0FU);
}

/// General category of a code point, Unicode 17.0.0.
constexpr category category_of(char32_t code_point) {
  return static_cast<category>(detail::unicode_value(code_point) >> 4);
}

/// Category L*, as `\p{L}` in a regular expression.
constexpr bool is_letter(char32_t code_point) {
  return category_of(code_point) == category::letter;
}

/// Category N*, as `\p{N}`.
constexpr bool is_number(char32_t code_point) {
  return category_of(code_point) == category::number;
}

/// Category M*, as `\p{M}`.
constexpr bool is_mark(char32_t code_point) { return category_of(code_point) == category::mark; }

/// White_Space, as `\s`: by UAX #29 the code points with Sentence_Break CR, LF, Sep or Sp.
constexpr bool is_space(char32_t code_point) {
  const sentence_break b = sentence_break_of(code_point);
  return b == sentence_break::sp || b == sentence_break::lf || b == sentence_break::cr ||
         b == sentence_break::sep;
}

/// Capital and title-case letters (Sentence_Break Upper).
constexpr bool is_uppercase(char32_t code_point) {
  return sentence_break_of(code_point) == sentence_break::upper;
}

/// Small letters (Sentence_Break Lower).
constexpr bool is_lowercase(char32_t code_point) {
  return sentence_break_of(code_point) == sentence_break::lower;
}

}  // namespace gistkv::text
