// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include <support/data.hpp>
#include <text/segmenting.hpp>

#include <gistkv/text/unicode_sentences.hpp>

using namespace gistkv;
using namespace gistkv::test;
using text::boundary;
using text::sentence_break;

namespace {

constexpr text::segmenter_options before{text::placement::before_whitespace,
                                         text::last_sentence::closed};
constexpr text::segmenter_options open_end{text::placement::after_whitespace,
                                           text::last_sentence::if_terminated};

std::vector<std::string> split(std::string_view text, text::segmenter_options options = {}) {
  return sentences(text, checked_boundaries(text::unicode_sentences(options), text));
}

/// UAX #29 read rule by rule, for every place, with the whole text at hand.
std::vector<index_t> by_the_rules(std::string_view text) {
  struct unit {
    sentence_break b;
    index_t begin;
  };
  using enum sentence_break;
  std::vector<unit> all;
  for (std::size_t i = 0; i < text.size();) {
    const text::decoded d = text::decode_utf8(text.substr(i));
    all.push_back({text::sentence_break_of(d.code_point), static_cast<index_t>(i)});
    i += static_cast<std::size_t>(d.length);
  }
  const auto separator = [](sentence_break b) { return b == sep || b == cr || b == lf; };
  const auto terminator = [](sentence_break b) { return b == a_term || b == s_term; };
  std::vector<index_t> found;
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (all[i - 1].b == cr && all[i].b == lf) continue;  // SB3
    if (separator(all[i - 1].b)) {                       // SB4
      found.push_back(all[i].begin);
      continue;
    }
    if (all[i].b == extend || all[i].b == format) continue;  // SB5
    // What SB5 leaves of the text on either side; a separator takes no Extend.
    std::vector<sentence_break> left;
    std::vector<sentence_break> right;
    for (std::size_t j = 0; j < all.size(); ++j) {
      const bool ignored =
          (all[j].b == extend || all[j].b == format) && j > 0 && !separator(all[j - 1].b);
      if (!ignored) (j < i ? left : right).push_back(all[j].b);
    }
    const auto at = [&](std::size_t back) {
      return back <= left.size() ? left[left.size() - back] : other;
    };
    const sentence_break next = right[0];
    if (at(1) == a_term && next == numeric) continue;                                      // SB6
    if ((at(2) == upper || at(2) == lower) && at(1) == a_term && next == upper) continue;  // SB7
    std::size_t back = 1;
    bool space = false;
    while (at(back) == sp) ++back, space = true;
    while (at(back) == close) ++back;
    if (!terminator(at(back)) || back > left.size()) continue;  // SB998
    if (at(back) == a_term) {                                   // SB8
      std::size_t j = 0;
      while (j < right.size() && right[j] != o_letter && right[j] != upper && right[j] != lower &&
             !separator(right[j]) && !terminator(right[j])) {
        ++j;
      }
      if (j < right.size() && right[j] == lower) continue;
    }
    if (next == s_continue || terminator(next)) continue;                      // SB8a
    if (!space && (next == close || next == sp || separator(next))) continue;  // SB9
    if (next == sp || separator(next)) continue;                               // SB10
    found.push_back(all[i].begin);                                             // SB11
  }
  if (!text.empty()) found.push_back(static_cast<index_t>(text.size()));
  return found;
}

std::vector<index_t> offsets(const std::vector<boundary>& found) {
  std::vector<index_t> out;
  for (const boundary& b : found) {
    CHECK(b.inserted.empty());
    out.push_back(b.offset);
  }
  return out;
}

}  // namespace

TEST_CASE("unicode: the conformance cases of Unicode 17") {
  const auto path = data_dir() / "segmentation" / "unicode17_sentence_break.jsonl";
  if (!require_file(path)) return;
  std::ifstream file(path);
  int n_cases = 0;
  for (std::string line; std::getline(file, line); ++n_cases) {
    CAPTURE(line);
    const auto sample = nlohmann::json::parse(line);
    CHECK(split(sample.at("text").get<std::string>()) ==
          sample.at("sentences").get<std::vector<std::string>>());
  }
  CHECK(n_cases == 512);
}

TEST_CASE("unicode: equals the rules read one by one") {
  random_generator random(2);
  const std::vector<std::string> alphabet = {"a",
                                             "B",
                                             "5",
                                             ".",
                                             "!",
                                             "?",
                                             " ",
                                             "\n",
                                             "\r",
                                             ")",
                                             "\"",
                                             ",",
                                             "\xC2\xAD",
                                             "\xCC\x88",
                                             "-",
                                             "$",
                                             "\xE6\x97\xA5",
                                             "\xE3\x80\x82",
                                             "\xE2\x80\xA9",
                                             "\xC2\x85",
                                             "\xFF"};
  for (int i = 0; i < 3000; ++i) {
    const std::string text = random_text(alphabet, 14, random);
    CAPTURE(text);
    CHECK(offsets(checked_boundaries(text::unicode_sentences{}, text, 1)) == by_the_rules(text));
  }
  for (const std::string& text : hostile_texts()) {
    CHECK(offsets(checked_boundaries(text::unicode_sentences{}, text)) == by_the_rules(text));
    checked_boundaries(text::unicode_sentences(before), text);
    checked_boundaries(text::unicode_sentences(open_end), text);
  }
}

TEST_CASE("unicode: placement in front of the white space") {
  using strings = std::vector<std::string>;
  CHECK(split("One. Two!  Three") == strings{"One. ", "Two!  ", "Three"});
  CHECK(split("One. Two!  Three", before) == strings{"One.", " Two!", "  Three"});
  CHECK(split("One.\r\n\nTwo", before) == strings{"One.", "\r\n\nTwo"});
  CHECK(split("He (\"left.\")  Then ", before) == strings{"He (\"left.\")", "  Then", " "});
  CHECK(split("\n\n", before) == strings{"\n\n"});
  CHECK(split("at 5. 10 of them ", before) == strings{"at 5. 10 of them", " "});
  CHECK(split("at 5. 10 Of them ", before) == strings{"at 5.", " 10 Of them", " "});
}

TEST_CASE("unicode: an end without punctuation stays open on demand") {
  const auto count = [](std::string_view text) {
    return checked_boundaries(text::unicode_sentences(open_end), text).size();
  };
  CHECK(count("One. Two") == 1);
  CHECK(count("One. Two.") == 2);
  CHECK(count("One. Two.) ") == 2);
  CHECK(count("One. Two\n") == 2);
  CHECK(count("One. 2") == 1);
  CHECK(count("One") == 0);
  CHECK(count("") == 0);
}

TEST_CASE("unicode: a megabyte without a space, and one that waits for a small letter") {
  const std::string no_space(1 << 20, 'x');
  CHECK(text::boundaries(text::unicode_sentences{}, no_space).size() == 1);
  const std::string digits = "etc. " + std::string(1 << 20, '5');
  CHECK(text::boundaries(text::unicode_sentences{}, digits + "a").size() == 1);
  CHECK(text::boundaries(text::unicode_sentences{}, digits + "A") ==
        std::vector<boundary>{{5, ""}, {(1 << 20) + 6, ""}});
}
