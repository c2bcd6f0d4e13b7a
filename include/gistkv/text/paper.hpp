// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include <gistkv/text/boundary.hpp>

namespace gistkv::text {

/// The rule of Sentence-Anchored Gist Compression (arXiv 2511.08128), byte for byte.
///
/// The authors rewrite the text by nine substitutions, one after the other (G = the gists):
/// `. ` -> `. G`, then the same with `? ` and `! `; `.\n` -> `.\nG`, then `?\n` and `!\n`; and at
/// the end of the text `.` -> `. G`, `!` -> `!G`, `?` -> `?G`. No substitution makes or breaks a
/// place for a later one, since G holds no mark; and `$`, which also matches in front of a final
/// newline, never does, since a mark there has become `.\nG`. So one pass from left to right is the
/// same: a mark and the space or newline behind it are stepped over together and the boundary
/// follows; a mark that is the last byte has its boundary behind it, a full stop with a space
/// inserted.
///
/// A boundary is known with the byte in front of it. State: one byte.
///
/// Under placement::before_whitespace (ours) the same sentences end behind their mark, and nothing
/// is inserted: the next piece begins with its space, so that the text keeps the tokens that it has
/// without gists. A boundary is then known with the byte behind it.
class paper {
 public:
  static constexpr std::string_view name = "paper";

  paper() = default;
  /// Of the options only the placement matters here.
  explicit paper(segmenter_options options) : options_(options) {}

  void push(std::string_view piece, std::vector<boundary>& out) {
    if (piece.empty()) return;
    const char* const bytes = piece.data();
    const std::size_t size = piece.size();
    if (last_ != 0 && is_gap(bytes[0])) out.push_back({offset_ + gap()});
    std::size_t i = 0;
    while (i + 8 < size) {  // One byte stays behind the word, so that [j + 1] exists.
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + i, 8);
      if (has(word, '.') || has(word, '?') || has(word, '!')) {
        for (std::size_t j = i; j < i + 8; ++j) emit(bytes, j, out);
      }
      i += 8;
    }
    for (; i + 1 < size; ++i) emit(bytes, i, out);
    last_ = is_mark(bytes[size - 1]) ? bytes[size - 1] : '\0';
    offset_ += static_cast<index_t>(size);
  }

  void finish(std::vector<boundary>& out) {
    using namespace std::string_view_literals;
    if (last_ != 0) out.push_back({offset_, last_ == '.' && gap() > 0 ? " "sv : ""sv});
    *this = paper(options_);
  }

  index_t max_tokens() const { return 0; }
  segmenter_options options() const { return options_; }

 private:
  static constexpr bool is_mark(char c) { return c == '.' || c == '?' || c == '!'; }
  static constexpr bool is_gap(char c) { return c == ' ' || c == '\n'; }

  /// Whether one of the eight bytes is `c`, by the borrow of 0x01 from a byte that is zero. A
  /// borrow can only run over from a byte that is itself zero, so the answer for the word is exact.
  static constexpr bool has(std::uint64_t word, char c) {
    constexpr std::uint64_t ones = 0x0101010101010101ULL;
    const std::uint64_t x = word ^ (ones * static_cast<unsigned char>(c));
    return ((x - ones) & ~x & (ones << 7)) != 0;
  }

  void emit(const char* bytes, std::size_t i, std::vector<boundary>& out) const {
    if (is_mark(bytes[i]) && is_gap(bytes[i + 1])) {
      out.push_back({offset_ + static_cast<index_t>(i) + 1 + gap()});
    }
  }

  /// Bytes between the mark and its boundary.
  index_t gap() const { return options_.placement == placement::after_whitespace ? 1 : 0; }

  segmenter_options options_;
  char last_ = 0;       ///< The last byte if it is a mark, else 0.
  index_t offset_ = 0;  ///< Bytes so far.
};

static_assert(Segmenter<paper>);

}  // namespace gistkv::text
