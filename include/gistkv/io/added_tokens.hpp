// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

#include <gistkv/core/types.hpp>
#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

/// A token that is found in the text itself, before words are cut.
struct added_token {
  std::string_view text;  ///< Not empty; storage that outlives the finder.
  token_t token = 0;
  bool control = false;  ///< Only where special tokens are parsed.
  bool strip_left = false;
  bool strip_right = false;
};

/// Finds added tokens in a text: the leftmost, of several at one place the longest, none
/// overlapping another.
class added_token_finder {
 public:
  void insert(const added_token& t) {
    auto& same_byte = by_first_byte_[static_cast<unsigned char>(t.text.front())];
    const auto longer = [](const added_token& a, const added_token& b) {
      return a.text.size() > b.text.size();
    };
    same_byte.insert(std::upper_bound(same_byte.begin(), same_byte.end(), t, longer), t);
  }

  /// Calls on_text(std::string_view) with each stretch between tokens, if not empty, and
  /// on_token(const added_token&) with each token, in order. A control token that is not parsed is
  /// text, and no other token is sought inside it.
  template <class OnText, class OnToken>
  void split(std::string_view s, bool parse_control, OnText&& on_text, OnToken&& on_token) const {
    std::size_t begin = 0;
    for (std::size_t at = 0; at < s.size();) {
      const added_token* found = at_beginning(s.substr(at));
      if (found == nullptr) {
        ++at;
        continue;
      }
      const std::size_t start = at;
      at += found->text.size();
      if (found->control && !parse_control) continue;
      std::string_view before = s.substr(begin, start - begin);
      if (found->strip_left) before = without_trailing_space(before);
      if (!before.empty()) on_text(before);
      on_token(*found);
      if (found->strip_right) at += leading_space(s.substr(at));
      begin = at;
    }
    if (begin < s.size()) on_text(s.substr(begin));
  }

 private:
  const added_token* at_beginning(std::string_view s) const {
    for (const added_token& t : by_first_byte_[static_cast<unsigned char>(s.front())]) {
      if (s.starts_with(t.text)) return &t;
    }
    return nullptr;
  }

  static std::size_t leading_space(std::string_view s) {
    std::size_t n = 0;
    while (n < s.size()) {
      const text::decoded unit = text::decode_utf8(s.substr(n, 4));
      if (!text::is_space(unit.code_point)) break;
      n += static_cast<std::size_t>(unit.length);
    }
    return n;
  }

  static std::string_view without_trailing_space(std::string_view s) {
    while (!s.empty()) {
      std::size_t start = s.size() - 1;
      while (start > 0 && s.size() - start < 4 &&
             (static_cast<unsigned char>(s[start]) & 0xC0U) == 0x80U) {
        --start;
      }
      const text::decoded unit = text::decode_utf8(s.substr(start));
      if (static_cast<std::size_t>(unit.length) != s.size() - start ||
          !text::is_space(unit.code_point)) {
        break;
      }
      s.remove_suffix(s.size() - start);
    }
    return s;
  }

  std::array<std::vector<added_token>, 256> by_first_byte_;
};

}  // namespace gistkv::io
