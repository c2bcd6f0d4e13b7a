// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/io/utf8_stream.hpp>

using namespace gistkv;
using namespace std::string_literals;
using io::utf8_stream;

namespace {

std::string whole(std::string_view bytes) {
  utf8_stream stream;
  std::string out = stream.push(bytes);
  return out + stream.flush();
}

}  // namespace

TEST_CASE("utf8 stream: a character appears with its last byte") {
  utf8_stream stream;
  CHECK(stream.push("a\xF0\x9F") == "a");
  CHECK(stream.push("\x98") == "");
  CHECK(stream.push("\x80z\xC3") == "\U0001F600z");
  CHECK(stream.push("\xA9") == "\u00e9");
  CHECK(stream.flush() == "");
}

TEST_CASE("utf8 stream: what is no character is replaced, a maximal subpart at a time") {
  CHECK(whole("\xFF") == "\uFFFD");
  CHECK(whole("a\x80\x80z") == "a\uFFFD\uFFFDz");
  CHECK(whole("\xF0\x9F\x98z") == "\uFFFDz");            // Three bytes of one character.
  CHECK(whole("\xE0\x80\x80") == "\uFFFD\uFFFD\uFFFD");  // Overlong: nothing begins with E0 80.
  CHECK(whole("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");  // A surrogate.
  CHECK(whole("\xF4\x90\x80\x80") == "\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(whole("\xC3\xC3\xA9") == "\uFFFD\u00e9");
  CHECK(whole("\0a"s) == "\0a"s);
  // The example of The Unicode Standard, table 3-8.
  CHECK(whole("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64") ==
        "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
}

TEST_CASE("utf8 stream: the end of the text ends a character, and a new text begins") {
  utf8_stream stream;
  CHECK(stream.push("\xE2\x82") == "");
  CHECK(stream.flush() == "\uFFFD");
  CHECK(stream.flush() == "");
  CHECK(stream.push("\xAC") == "\uFFFD");
}

TEST_CASE("utf8 stream: cuts do not matter") {
  random_generator random(3);
  constexpr std::string_view likely = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\xFF";
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (index_t n = random.below(16); n > 0; --n) {
      bytes.push_back(
          likely[static_cast<std::size_t>(random.below(static_cast<index_t>(likely.size())))]);
    }
    utf8_stream stream;
    std::string out;
    for (std::size_t at = 0; at < bytes.size();) {
      const auto n = static_cast<std::size_t>(1 + random.below(3));
      out += stream.push(std::string_view(bytes).substr(at, n));
      at += n;
    }
    out += stream.flush();
    CHECK(out == whole(bytes));
    CHECK(whole(out) == out);  // Valid now, so left alone.
  }
}
