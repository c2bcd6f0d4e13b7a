// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include <text/segmenting.hpp>

#include <gistkv/text/segmenter_rule.hpp>

using namespace gistkv;
using namespace gistkv::test;
using text::boundaries;
using text::parse_segmenter_rule;

namespace {

const std::string sample = "Mr. A said \"Go. Now.\" Then he went.  3.5 m!\nNext line 1) one 2) two";

constexpr text::segmenter_options before{text::placement::before_whitespace,
                                         text::last_sentence::if_terminated};

std::string message_of(std::string_view rule) {
  try {
    parse_segmenter_rule(rule);
  } catch (const argument_error& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("segmenter rule: each name gives its segmenter") {
  const auto any = [](std::string_view rule, text::segmenter_options options = {}) {
    return checked_boundaries(parse_segmenter_rule(rule, options), sample);
  };
  CHECK(any("paper") == boundaries(text::paper{}, sample));
  CHECK(any("unicode") == boundaries(text::unicode_sentences{}, sample));
  CHECK(any("english") == boundaries(text::english{}, sample));
  CHECK(any("unicode", before) == boundaries(text::unicode_sentences(before), sample));
  CHECK(any("english", before) == boundaries(text::english(before), sample));
  CHECK(any("uniform:7").empty());
  CHECK(any("paper") != any("unicode"));
  CHECK(any("unicode") != any("english"));
  CHECK(any("english") != any("english", before));
  CHECK(any("paper", before) == boundaries(text::paper(before), sample));
  CHECK(any("paper,before") == any("paper", before));
  CHECK(any("unicode,before") == any("unicode", {text::placement::before_whitespace}));
  CHECK(any("english,before") == any("english", {text::placement::before_whitespace}));
}

TEST_CASE("segmenter rule: limits") {
  CHECK(parse_segmenter_rule("paper").max_tokens() == 0);
  CHECK(parse_segmenter_rule("uniform:7").max_tokens() == 7);
  CHECK(parse_segmenter_rule("english,max_length:64").max_tokens() == 64);
  CHECK(parse_segmenter_rule("uniform:7,max_length:5").max_tokens() == 5);
  CHECK(parse_segmenter_rule("uniform:7,max_length:9").max_tokens() == 7);
  for (const char* rule :
       {"paper", "unicode", "english", "uniform:1", "uniform:128,max_length:9", "paper,before",
        "english,before,max_length:64", "unicode,before", "paper,max_length:1000000000000",
        "paper,min_bytes:9", "english,before,min_bytes:200,max_length:64"}) {
    CHECK(parse_segmenter_rule(rule).rule() == rule);
  }
  CHECK(text::any_segmenter{}.rule() == "paper");
  CHECK_THROWS_AS(text::any_segmenter(text::paper{}, -1), argument_error);
}

TEST_CASE("segmenter rule: what is wrong is named, and what would be right") {
  for (const char* rule : {"",
                           "Paper",
                           "paper ",
                           " paper",
                           "paper,",
                           "paper,before,",
                           "paper,before,before",
                           "paper,max_length:9,before",
                           "paper,max_length:9,max_length:9",
                           "uniform:8,before",
                           "paper,max_length",
                           "paper,max_length:",
                           "paper,max_length:0",
                           "paper,max_length:-3",
                           "paper,max_length:+3",
                           "paper,max_length:3x",
                           "paper,max_length:3,max_length:4",
                           "paper,min_length:3",
                           "paper,min_bytes:0",
                           "paper,min_bytes:",
                           "paper,min_bytes:2,min_bytes:3",
                           "paper,max_length:9,min_bytes:2",
                           "paper,min_bytes:2,before",
                           "uniform:8,min_bytes:2",
                           "uniform",
                           "uniform:",
                           "uniform:0",
                           "uniform:-1",
                           "uniform:1.5",
                           "uniform: 4",
                           "uniform:99999999999999999999",
                           "english:3",
                           "unicode,english",
                           ",max_length:3"}) {
    CAPTURE(rule);
    const std::string message = message_of(rule);
    CHECK(message.find("'" + std::string(rule) + "'") != std::string::npos);
    CHECK(message.find("paper, unicode, english or uniform:N") != std::string::npos);
  }
  CHECK(message_of("uniform:12").empty());
}

TEST_CASE("min_bytes joins short sentences with what follows, however the text is cut") {
  const auto all = checked_boundaries(text::paper{}, sample);
  const auto kept = [&](index_t n) {
    std::vector<text::boundary> want;
    index_t last = 0;
    for (const text::boundary& b : all) {
      if (b.offset - last < n) continue;
      last = b.offset;
      want.push_back(b);
    }
    return want;
  };
  CHECK(all.size() >= 4);
  CHECK(kept(20).size() < all.size());
  for (const index_t n : {1, 5, 8, 14, 20, 40, 1000}) {
    CAPTURE(n);
    const text::min_bytes joined{text::paper{}, n};
    CHECK(checked_boundaries(joined, sample) == kept(n));
    CHECK(checked_boundaries(parse_segmenter_rule("paper,min_bytes:" + std::to_string(n)),
                             sample) == kept(n));
  }
  // The next text begins anew.
  text::min_bytes joined{text::paper{}, 6};
  for (int i = 0; i < 2; ++i) {
    std::vector<text::boundary> found;
    joined.push("One two. A. Three four. ", found);
    joined.finish(found);
    REQUIRE(found.size() == 2);
    CHECK(found[0].offset == 9);
    CHECK(found[1].offset == 24);
  }
  CHECK(text::min_bytes{text::max_length{text::paper{}, 20}, 30}.max_tokens() == 20);
  CHECK_THROWS_WITH_AS((text::min_bytes{text::paper{}, 0}),
                       "min_bytes: 0 bytes a sentence, want 1 or more", argument_error);
  CHECK_THROWS_AS(text::any_segmenter(text::paper{}, 0, -1), argument_error);
}

TEST_CASE("uniform and max_length") {
  CHECK(checked_boundaries(text::uniform(3), sample).empty());
  CHECK(text::uniform(3).max_tokens() == 3);
  CHECK_THROWS_WITH_AS(text::uniform(0), "uniform: 0 tokens a sentence, want 1 or more",
                       argument_error);
  CHECK_THROWS_AS(text::uniform(-5), argument_error);
  const text::max_length limited{text::paper{}, 20};
  CHECK(checked_boundaries(limited, sample) == boundaries(text::paper{}, sample));
  CHECK(limited.max_tokens() == 20);
  CHECK(text::max_length{limited, 30}.max_tokens() == 20);
  CHECK(text::max_length{limited, 10}.max_tokens() == 10);
  CHECK_THROWS_AS((text::max_length{text::paper{}, 0}), argument_error);
}
