// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <gistkv/text/unicode.hpp>

namespace gistkv::io {

/// Turns the bytes of tokens, which may end inside a character, into text that may be shown at
/// once.
///
/// What it gives is valid UTF-8 whatever goes in: a byte sequence that is no character becomes
/// U+FFFD, one for each maximal subpart (The Unicode Standard 17, section 3.9, the practice of web
/// browsers). It does not depend on how the bytes were cut. Holds at most three bytes back.
class utf8_stream {
 public:
  /// Takes further bytes and gives all characters that are complete by now.
  std::string push(std::string_view bytes) {
    held_ += bytes;
    std::string out;
    std::string_view rest = held_;
    while (!rest.empty() && !text::incomplete_utf8(rest)) take_one(rest, out);
    held_.erase(0, held_.size() - rest.size());
    return out;
  }

  /// The text is over: U+FFFD if a character was left unfinished, else nothing. Ready for a new
  /// text.
  std::string flush() {
    const bool unfinished = !held_.empty();
    held_.clear();
    return unfinished ? std::string(replacement) : std::string();
  }

 private:
  static constexpr std::string_view replacement = "\xEF\xBF\xBD";

  static void take_one(std::string_view& rest, std::string& out) {
    const text::decoded unit = text::decode_utf8(rest);
    std::size_t n = static_cast<std::size_t>(unit.length);
    if (unit.code_point != text::invalid_code_point) {
      out += rest.substr(0, n);
    } else {
      // The longest beginning of a character, if the first byte begins one at all.
      while (n < rest.size() && text::incomplete_utf8(rest.substr(0, n + 1))) ++n;
      out += replacement;
    }
    rest.remove_prefix(n);
  }

  std::string held_;
};

}  // namespace gistkv::io
