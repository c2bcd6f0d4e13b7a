// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include <gistkv/text/unicode.hpp>

using gistkv::index_t;
using namespace gistkv::text;

namespace {

std::vector<char32_t> decode_all(std::string_view text) {
  std::vector<char32_t> units;
  while (!text.empty()) {
    const decoded unit = decode_utf8(text);
    units.push_back(unit.code_point);
    text.remove_prefix(static_cast<std::size_t>(unit.length));
  }
  return units;
}

std::string encode(char32_t c) {
  std::string out;
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
  return out;
}

}  // namespace

TEST_CASE("every scalar value survives encoding, every prefix of it is incomplete") {
  index_t wrong = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    const std::string bytes = encode(c);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    const decoded want = surrogate ? decoded{} : decoded{c, static_cast<index_t>(bytes.size())};
    wrong += decode_utf8(bytes) != want;
    wrong += decode_utf8(bytes + "x") != want;
    for (std::size_t n = 1; n < bytes.size(); ++n) {
      const std::string_view prefix = std::string_view(bytes).substr(0, n);
      // Two bytes of a surrogate are already wrong; its lead byte alone may still become right.
      wrong += incomplete_utf8(prefix) != !(surrogate && n >= 2);
      wrong += decode_utf8(prefix) != decoded{};
    }
    wrong += incomplete_utf8(bytes);
  }
  CHECK(wrong == 0);
}

TEST_CASE("a byte outside valid UTF-8 is one unit") {
  const char32_t bad = invalid_code_point;
  CHECK(decode_all("\x80z") == std::vector<char32_t>{bad, 'z'});
  CHECK(decode_all("\xC0\xAFz") == std::vector<char32_t>{bad, bad, 'z'});     // overlong
  CHECK(decode_all("\xE0\x80\xAF") == std::vector<char32_t>{bad, bad, bad});  // overlong
  CHECK(decode_all("\xF0\x8F\xBF\xBF") == std::vector<char32_t>{bad, bad, bad, bad});
  CHECK(decode_all("\xF4\x90\x80\x80") == std::vector<char32_t>{bad, bad, bad, bad});  // 0x110000
  CHECK(decode_all("\xF5\xFF") == std::vector<char32_t>{bad, bad});
  CHECK(decode_all("\xE2\x82z") == std::vector<char32_t>{bad, bad, 'z'});  // truncated
  CHECK(decode_all("\xE2\x82\xAC") == std::vector<char32_t>{0x20AC});
  CHECK(decode_all(std::string_view("\0", 1)) == std::vector<char32_t>{0});
  CHECK_FALSE(incomplete_utf8(""));
  CHECK_FALSE(incomplete_utf8("\xFF"));
  CHECK_FALSE(incomplete_utf8("\xE0\x80"));
  CHECK(incomplete_utf8("\xE0\xA0"));
}

TEST_CASE("properties of Unicode 17") {
  CHECK(is_letter('a'));
  CHECK(is_letter(0xE9));
  CHECK(is_letter(0x4E00));
  CHECK(is_letter(0xAC00));
  CHECK(is_letter(0xA7CE));   // new in 17: Latin capital letter Pharyngeal Voiced Fricative
  CHECK(is_letter(0x11DB0));  // new in 17: Tolong Siki
  CHECK_FALSE(is_letter('5'));
  CHECK_FALSE(is_letter('_'));
  CHECK_FALSE(is_letter(0x300));
  CHECK_FALSE(is_letter(invalid_code_point));
  CHECK_FALSE(is_letter(0xFFFFFFFF));
  CHECK(is_number('7'));
  CHECK(is_number(0x661));
  CHECK(is_number(0xBD));    // one half, No
  CHECK(is_number(0x2167));  // Roman numeral eight, Nl
  CHECK(is_mark(0x300));
  CHECK(is_uppercase('Q'));
  CHECK(is_uppercase(0x100));
  CHECK(is_uppercase(0x1C5));  // title case
  CHECK(is_lowercase(0x101));
  CHECK(is_lowercase(0xDF));
  CHECK_FALSE(is_uppercase(0x5D0));  // Hebrew has no case
  CHECK_FALSE(is_lowercase(0x5D0));
  CHECK(sentence_break_of('.') == sentence_break::a_term);
  CHECK(sentence_break_of('!') == sentence_break::s_term);
  CHECK(sentence_break_of(0x3002) == sentence_break::s_term);
  CHECK(sentence_break_of('"') == sentence_break::close);
  CHECK(sentence_break_of(',') == sentence_break::s_continue);
  CHECK(sentence_break_of(0x200D) == sentence_break::extend);
  CHECK(sentence_break_of(0xAD) == sentence_break::format);
  CHECK(sentence_break_of(0x10FFFF) == sentence_break::other);
}

TEST_CASE("white space is what \\s of a Unicode regular expression matches") {
  std::vector<char32_t> spaces;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (is_space(c)) spaces.push_back(c);
  }
  CHECK(spaces == std::vector<char32_t>{0x9,    0xA,    0xB,    0xC,    0xD,    0x20,   0x85,
                                        0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004,
                                        0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200A, 0x2028,
                                        0x2029, 0x202F, 0x205F, 0x3000});
}
