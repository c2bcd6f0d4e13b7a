// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <cstddef>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include <gistkv/io/nfc.hpp>

#include <support/data.hpp>

using gistkv::io::compose;
using gistkv::io::is_composed;

TEST_CASE("nfc: as an independent implementation normalises") {
  const auto cases = nlohmann::json::parse(
      std::ifstream(gistkv::test::source_dir() / "tests/data/nfc_cases.json"));
  REQUIRE(cases.size() > 500);
  std::size_t changed = 0;
  for (const auto& c : cases) {
    const auto text = c[0].get<std::string>();
    const auto expected = c[1].get<std::string>();
    INFO(c[0].dump());
    CHECK(compose(text) == expected);
    CHECK(compose(expected) == expected);
    if (text != expected) {
      ++changed;
      CHECK_FALSE(is_composed(text));
    }
  }
  CHECK(changed > 200);
}

TEST_CASE("nfc: Hangul syllables by arithmetic") {
  CHECK(compose("\u1112\u1161\u11ab\u1100\u1173\u11af") == "\ud55c\uae00");
  CHECK(compose("\uac00\u11a8") == "\uac01");
  CHECK(compose("\uac01\u11a8") == "\uac01\u11a8");  // Has its trailing consonant already.
  CHECK(compose("\uac00\u11a7") == "\uac00\u11a7");
}

TEST_CASE(
    "nfc: what is surely unchanged takes the quick way, and everything else is unchanged too") {
  for (const char* text :
       {"", "plain", "caf\u00e9 \u00ff", "\u65e5\u672c\u8a9e \u2014 \u201cx\u201d", "\u0438\u0439",
        "\U0001f600"}) {
    CHECK(is_composed(text));
    CHECK(compose(text) == text);
  }
  CHECK_FALSE(is_composed("e\u0301"));
  CHECK(compose("e\u0301") == "\u00e9");
}

TEST_CASE("nfc: bytes that are no UTF-8 stay where they are") {
  using namespace std::string_literals;
  CHECK(compose("e\xFF\u0301"s) == "e\xFF\u0301"s);
  CHECK(compose("\xC3"s) == "\xC3"s);
  CHECK(compose("\xE3\x80\0e\u0301"s) == "\xE3\x80\0\u00e9"s);
  for (int b = 0; b < 256; ++b) {
    const std::string one(1, static_cast<char>(b));
    CHECK(compose(one) == one);
  }
}

TEST_CASE("nfc: a long run of marks is ordered in reasonable time") {
  std::string marks = "a";
  for (int i = 0; i < 100000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::string ordered = compose(marks);
  // U+0323 (class 220) comes before U+0301 (class 230), and the first of each joins the letter.
  CHECK(ordered.starts_with("\u1ea1\u0323"));
  CHECK(ordered.ends_with("\u0301\u0301"));
  CHECK(ordered.size() == 3 + 2 * (100000 - 1));
}
