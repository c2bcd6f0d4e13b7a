// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <gistkv/core/types.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::text::detail {

/// The end of the text, or of what a decision may look at.
inline constexpr char32_t end_of_text = 0x110001;

/// The stretch of a stream around the place that a rule looks at: a bounded number of bytes behind
/// it and in front of it. A look at bytes that have not arrived yet sets `starved`: the rule then
/// changes nothing and is asked again when there is more. So every decision is the one that the
/// whole text would have given, however it was cut.
class text_window {
 public:
  static constexpr std::size_t behind = 96;  ///< Bytes that stay readable behind `at`.
  static constexpr std::size_t ahead = 256;  ///< Bytes in front of `at` that a rule may look at.

  std::size_t at = 0;    ///< The place, as an index of the window.
  bool final = false;    ///< No more bytes will come.
  bool starved = false;  ///< A look went past the bytes that have arrived.

  void append(std::string_view bytes) { bytes_ += bytes; }
  std::size_t size() const { return bytes_.size(); }
  char operator[](std::size_t i) const { return bytes_[i]; }
  std::string_view view(std::size_t begin, std::size_t end) const {
    return std::string_view(bytes_).substr(begin, end - begin);
  }

  /// Offset in the text of the window's byte i, and back; `index` of a byte that is gone is 0.
  index_t offset(std::size_t i) const { return begin_ + static_cast<index_t>(i); }
  std::size_t index(index_t offset) const {
    return offset < begin_ ? 0 : static_cast<std::size_t>(offset - begin_);
  }

  /// Forgets what no rule can look back at any more.
  void trim() {
    if (at <= behind) return;
    begin_ += static_cast<index_t>(at - behind);
    bytes_.erase(0, at - behind);
    at = behind;
  }

  /// The character at index i >= at; of length 0, `end_of_text`, behind what may be looked at.
  decoded look(std::size_t i) {
    const std::size_t cap = at + ahead;
    const std::size_t limit = std::min(bytes_.size(), cap);
    const bool more = !final && limit < cap;
    if (i >= limit) {
      starved = starved || more;
      return {end_of_text, 0};
    }
    const auto byte = static_cast<unsigned char>(bytes_[i]);
    if (byte < 0x80) return {byte, 1};
    const std::string_view rest = view(i, limit);
    if (more && incomplete_utf8(rest)) {
      starved = true;
      return {end_of_text, 0};
    }
    return decode_utf8(rest);
  }
  char32_t peek(std::size_t i) { return look(i).code_point; }

  /// Whether index i is as far as a rule may look, the text going on behind it.
  bool at_cap(std::size_t i) const { return i >= at + ahead; }

  /// The character in front of index i: `end_of_text` at the beginning of the text.
  char32_t before(std::size_t i) const {
    if (i == 0) return end_of_text;
    std::size_t begin = i - 1;
    while (begin > 0 && i - begin < 4 &&
           (static_cast<unsigned char>(bytes_[begin]) & 0xC0) == 0x80) {
      --begin;
    }
    const decoded unit = decode_utf8(view(begin, i));
    return static_cast<std::size_t>(unit.length) == i - begin ? unit.code_point
                                                              : invalid_code_point;
  }

  /// The run of bytes in front of index i that are letters, digits, full stops, apostrophes inside
  /// a word or not ASCII, general punctuation (U+2000 to U+207F) apart; ""
  /// if it is longer than any word a rule knows.
  std::string_view word_before(std::size_t i) const {
    constexpr std::size_t longest = 32;
    std::size_t begin = i;
    while (begin > 0 && i - begin <= longest && is_word_byte(bytes_[begin - 1])) {
      if (begin >= 3 && bytes_[begin - 3] == '\xE2' && (bytes_[begin - 2] & '\xFE') == '\x80')
        break;
      --begin;
    }
    return i - begin > longest ? std::string_view{} : view(begin, i);
  }

 private:
  static constexpr bool is_word_byte(char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '.' ||
           c == '\'' || static_cast<unsigned char>(c) >= 0x80;
  }

  std::string bytes_;
  index_t begin_ = 0;  ///< Offset in the text of bytes_[0].
};

}  // namespace gistkv::text::detail
