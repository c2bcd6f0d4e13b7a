// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <support/data.hpp>
#include <text/segmenting.hpp>

#include <gistkv/text/english.hpp>

using namespace gistkv;
using namespace gistkv::test;

namespace {

using strings = std::vector<std::string>;

constexpr text::segmenter_options before{text::placement::before_whitespace,
                                         text::last_sentence::closed};
constexpr text::segmenter_options open_end{text::placement::after_whitespace,
                                           text::last_sentence::if_terminated};

std::string trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\r\n\f\v";
  const auto begin = text.find_first_not_of(space);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(space) - begin + 1));
}

/// The sentences, trimmed, under both placements, which must agree; every cut is tried.
strings split(std::string_view text) {
  strings result[2];
  for (const bool is_before : {false, true}) {
    const text::english segmenter(is_before ? before : text::segmenter_options{});
    for (const std::string& piece : sentences(text, checked_boundaries(segmenter, text))) {
      const std::string sentence = trimmed(piece);
      if (!sentence.empty()) result[is_before].push_back(sentence);
    }
  }
  CHECK(result[0] == result[1]);
  return result[0];
}

/// Checks a text whose sentence ends are shown by `|`, each followed by one space or newline.
void check_marked(std::string_view marked) {
  std::string text;
  strings want(1);
  for (const char c : marked) {
    if (c == '|') {
      want.emplace_back();
    } else {
      text += c;
      want.back() += c;
    }
  }
  for (std::string& sentence : want) sentence = trimmed(sentence);
  CAPTURE(text);
  CHECK(split(text) == want);
}

}  // namespace

TEST_CASE("english: the golden rules, and what becomes of the other lists") {
  const auto path = data_dir() / "segmentation" / "pysbd.jsonl";
  if (!require_file(path)) return;
  std::ifstream file(path);
  std::map<std::string, std::pair<int, int>> scores;
  for (std::string line; std::getline(file, line);) {
    const auto sample = nlohmann::json::parse(line);
    const auto language = sample.at("language").get<std::string>();
    const auto text = sample.at("text").get<std::string>();
    strings want;
    for (const auto& sentence : sample.at("sentences")) {
      want.push_back(trimmed(sentence.get<std::string>()));
    }
    CAPTURE(text);
    const strings found = split(text);
    if (language == "english") CHECK(found == want);
    auto& [right, all] = scores[language + ", " + sample.at("list").get<std::string>()];
    right += found == want;
    ++all;
  }
  REQUIRE_FALSE(scores.empty());
  int english_cases = 0;
  for (const auto& [list, score] : scores) {
    MESSAGE(list << ": " << score.first << " of " << score.second);
    if (list.starts_with("english, ")) english_cases += score.second;
    // The lists of `english_clean` also want text changed; these many need only boundaries.
    if (list == "english_clean, TESTS_WITH_CLEAN") CHECK(score.first >= 90);
    if (list == "english_clean, TESTS_WO_CLEAN") CHECK(score.first == score.second);
  }
  CHECK(english_cases == 48);
}

TEST_CASE("english: abbreviations, initials, acronyms") {
  for (const char* marked : {
           "Gen. Grant met Maj. Smith at Ft. Worth.| They spoke.",
           "He was born on Jan. 5, 1990.| Then he moved to St. Louis.",
           "See Fig. 3.| It shows the result.| See fig. A for more.| See Vol. II for details.",
           "Acme Inc., was sold.| I like Acme Inc.| The buyer paid $5.5 million.",
           "She got her Ph.D. in 1999.| He has an M.D. and a B.Sc.| She is proud.",
           "We met at 3 p.m. on Friday.| We met at 3 p.m. Friday.| The train leaves at 9 a.m.| "
           "The bus too.",
           "At 10 a.m. Dr. Jones left.| She arrived at 10 a.m.| Dr. Jones left.",
           "Around 9 p.m. Mrs. Hill called.| He woke up at 7 A.M.| Mr. Hill did not.",
           "Around approximately 10:30 p.m. Mrs. Hill called.| It was late.",
           "J. K. Rowling wrote it.| W. E. B. Du Bois did not.| Plan B.| It worked.",
           "The U.S. President spoke.| The U.N. Security Council met.| I like the U.S.| The law "
           "differs there.",
           "He lives on 5th Ave.| The house is old.| He lives on Main St. near the park.",
           "The temp. was 5 deg. C.| It was cold.| He is 6 ft. 2 in. tall.",
           "It was No. 1.| No.| That is wrong.| He said no.| I agreed.",
           "Tom et al. showed this.| Tom et al. (2005) did.| As in Smith et al.| We agree.",
           "John F. Kennedy, Jr. was there.| So was Sammy Davis Jr.| He sang.",
           "Roe v. Wade was overturned.| See 410 U.S. 113.| He loves art.| Picasso painted.",
           "Prices rose in Jan. and Feb.| They fell in Mar.| It was Sept. 11.",
           "I bought apples, pears, etc.| Then I left.| I bought apples, etc. for him.",
           "Dear Mr. and Mrs. Brown, thank you.| Yours, Dr. Who.",
           "Mr.\nSmith came.| It was John and I.| We left.",
       }) {
    check_marked(marked);
  }
}

TEST_CASE("english: quotations and brackets") {
  for (const char* marked : {
           "\"Where are you?\" asked Tom.| \"Here!\" Alice said.| \"Why?\" I asked.| We left.",
           "He said (and I quote: \"No. Never.\") that it was over.| Then he left.",
           "(This is a full sentence.)| This is another.| [So is this.]| Yes.",
           "\"I am tired. I want to sleep.\"| She lay down.",
           "He asked, \xE2\x80\x98Why?\xE2\x80\x99| Nobody knew.| \xE2\x80\x98I\xE2\x80\x99m "
           "going. Bye.\xE2\x80\x99| He went.",
           "\xE2\x80\x9CStop!\xE2\x80\x9D| \xE2\x80\x9CWhy?\xE2\x80\x9D| \xE2\x80\x9C"
           "Because.\xE2\x80\x9D",
           "He bought a car (a Ford, I think. Or a Chevy?) and drove off.| She waved.",
           "She cried, \"Help!\" and ran.| \"Fire!\"| The crowd ran.",
           "\"I only--\"| The door fell.| \"I only--\" Tom began.",
           "'Twas the night before.| All was still.| Rock 'n' roll is dead.| It is.",
           "The '90s were great.| The dogs' bowls are full.| They eat.",
           "It is 6 3/4\" wide.| It is 5' high.| That is all.",
           "He read \"it all.\n\n| A new paragraph.| Forgets it.",
       }) {
    check_marked(marked);
  }
}

TEST_CASE("english: an open quotation does not count for ever") {
  const std::string sentence = "He went on and on about it. ";
  std::string text = "She said \"";
  for (int i = 0; i < 60; ++i) text += sentence;
  const strings found = split(text);
  CHECK(found.size() > 20);
  CHECK(found[0].size() > 700);
  CHECK(found[0].size() < 900);
}

TEST_CASE("english: numbers, addresses, ellipses") {
  for (const char* marked : {
           "It cost $3.50.| That's cheap.| Version 2.0.1 is out.| Visit www.example.com.| Bye.",
           "Mail a.b@c.org.| Go to http://a.b/c?d=e.f.| Now.| See a.py.| Done.",
           "What?!| No way.| Really??| Yes!!!| OK.",
           "I love it...| Do you?| I love it\xE2\x80\xA6| Do you?| I think so... maybe.",
           "Well . . . I never.| It ended . . . .| Next one.",
           "\"A [...] B.\"| Then (...) so on.",
           "This is it.[3]| Next one.[4][5]| Another.12 13| More text.",
           "iPhone sales fell.| eBay rose.| The 5.| 10 of them.",
           "40.7128\xC2\xB0 N, 74.0060\xC2\xB0 W.| Here.| N\xC2\xB0. 5 is best.",
           "One sentence.|Another without a space.|The third.",
           "Yes! \xF0\x9F\x98\x80 indeed.| Good.| \xF0\x9F\x98\x80 Great.",
       }) {
    check_marked(marked);
  }
}

TEST_CASE("english: lists and lines") {
  for (const char* marked : {
           "1) Wash| 2) Rinse| 3) Repeat.",
           "a.) Wash| b.) Rinse| c.) Repeat",
           "(1) The first.| (2) The second.| (3) The third.",
           "i. The first| ii. The second| iii. The third",
           "\xE2\x97\xA6 First| \xE2\x97\xA6 Second",
           "We saw (1) one and (2) two.| As said in 1. above.",
           "Steps:\n|1. Open the box.\n|2. Take it out\n|3. Close it",
           "- item one\n|- item two\n|* item three",
           "A Heading\n|Some text.\r\n|More text.",
           "A line of prose that an editor has broken after some seventy bytes or\nSo with a "
           "capital "
           "letter.\n\n|New paragraph\n \n|x",
           "It was a cold\nnight in the\nCity of London.",
       }) {
    check_marked(marked);
  }
}

TEST_CASE("english: other scripts' full stops need no white space") {
  CHECK(split("\xE4\xBB\x8A\xE6\x97\xA5\xE3\x80\x82\xE6\x98\x8E\xE6\x97\xA5\xEF\xBC\x9F"
              "\xE5\xA5\xBD")
            .size() == 3);
  CHECK(split("\xE0\xA4\x95\xE0\xA5\xA4 \xE0\xA4\x96\xE0\xA5\xA4").size() == 2);
}

TEST_CASE("english: placement and end of text") {
  const auto pieces = [](std::string_view text, text::segmenter_options options) {
    return sentences(text, checked_boundaries(text::english(options), text));
  };
  CHECK(pieces("One.  Two! \n Three", {}) == strings{"One.  ", "Two! \n ", "Three"});
  CHECK(pieces("One.  Two! \n Three", before) == strings{"One.", "  Two!", " \n Three"});
  CHECK(pieces("1. One 2. Two", before) == strings{"1. One", " 2. Two"});
  CHECK(pieces("One.\n", before) == strings{"One.", "\n"});
  const auto count = [](std::string_view text) {
    return checked_boundaries(text::english(open_end), text).size();
  };
  CHECK(count("One. Two") == 1);
  CHECK(count("One. Two.") == 2);
  CHECK(count("One. Two\n") == 1);
  CHECK(count("One. Mr.") == 2);
  CHECK(count("One") == 0);
  CHECK(count("") == 0);
  CHECK(text::boundaries(text::english{}, "").empty());
}

TEST_CASE("english: any bytes, any cut") {
  random_generator random(5);
  const strings alphabet = {"A",
                            "b",
                            "Mr",
                            "U.S",
                            "p.m",
                            "5",
                            ".",
                            "!",
                            "?",
                            " ",
                            "\n",
                            "\"",
                            "'",
                            "(",
                            ")",
                            "[",
                            "]",
                            "1.",
                            "2)",
                            "a)",
                            ". ",
                            ".. ",
                            "-",
                            "I ",
                            "He ",
                            " said",
                            ",",
                            "\xE2\x80\x9C",
                            "\xE2\x80\x99",
                            "\xE2\x80\xA2",
                            "\xE3\x80\x82",
                            "\xFF",
                            "\xC2\xA0",
                            "<b>"};
  for (int i = 0; i < 1500; ++i) {
    const std::string text = random_text(alphabet, 60, random);
    CAPTURE(text);
    checked_boundaries(text::english{}, text);
    checked_boundaries(text::english(before), text);
    checked_boundaries(text::english(open_end), text);
  }
  for (const std::string& text : hostile_texts()) {
    checked_boundaries(text::english{}, text);
    checked_boundaries(text::english(before), text);
  }
  const std::string pad(700, ' ');
  for (const char* gap : {" ", "\t", "\n", "\xC2\xA0", "\r\n"}) {
    std::string spaces;
    for (int i = 0; i < 300; ++i) spaces += gap;
    for (const auto& options : {text::segmenter_options{}, before}) {
      const text::english segmenter(options);
      const std::string prose = "One." + spaces + "two" + pad + "Three." + spaces + "\"Four\"";
      CHECK(checked_boundaries(segmenter, prose).size() >= 2);
      const std::string list = "Head" + pad + "\nNext. " + spaces + "1) x" + spaces + "2) y";
      CHECK(checked_boundaries(segmenter, list).size() >= 3);
    }
  }
}

TEST_CASE("english: linear in the length of texts that give nothing to go by") {
  const std::size_t n = 1 << 20;
  for (const std::string& unit : strings{"x", ".", "(", "\"", " ", "\n", "a. ", "'", "[1]", ".)",
                                         "<a", "...5", "\xE2\x80\x9D"}) {
    std::string text;
    while (text.size() < n) text += unit;
    const auto found = text::boundaries(text::english{}, text + "End");
    CHECK(found.size() >= 1);
    CHECK(found.back().offset == static_cast<index_t>(text.size() + 3));
  }
}
