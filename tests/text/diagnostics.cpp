// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

#include <gistkv/text/diagnostics.hpp>
#include <gistkv/text/segmenter_rule.hpp>

using namespace gistkv;

namespace {

void tokenize(std::string_view piece, std::vector<token_t>& out) {
  for (const char c : piece) out.push_back(static_cast<unsigned char>(c));
}

text::text_diagnostics diagnose(std::string_view text, std::string_view rule) {
  const std::vector<index_t> n_gists = {0, 1, 4};
  return text::diagnose(text, text::parse_segmenter_rule(rule), tokenize, n_gists);
}

}  // namespace

TEST_CASE("diagnostics: counts of a text") {
  const auto d = diagnose("Abc. A longer one. x", "paper");
  CHECK(d.n_bytes == 20);
  CHECK(d.n_tokens == 20);
  CHECK(d.n_sentences == 2);
  CHECK(d.open_tokens == 1);
  CHECK(d.longest_bytes == 14);
  CHECK(d.longest_tokens == 14);
  CHECK(d.longest_share == doctest::Approx(0.7));
  CHECK(d.has_terminator);
  CHECK(d.has_boundary);
  REQUIRE(d.forecasts.size() == 3);
  CHECK(d.forecasts[0] == text::compression_forecast{0, 0, 0.0, 1.0});
  CHECK(d.forecasts[1] == text::compression_forecast{1, 2, 10.0, 20.0 / 3});
  CHECK(d.forecasts[2] == text::compression_forecast{4, 8, 2.5, 20.0 / 9});
}

TEST_CASE("diagnostics: the inserted space counts, and a closed text has nothing open") {
  const auto d = diagnose("One. Two.", "paper");
  CHECK(d.n_tokens == 10);
  CHECK(d.n_sentences == 2);
  CHECK(d.open_tokens == 0);
  CHECK(d.longest_bytes == 5);
  CHECK(d.longest_tokens == 5);
  CHECK(d.forecasts[2].ratio == doctest::Approx(10.0 / 8));
}

TEST_CASE("diagnostics: text that cannot be compressed says so") {
  const auto none = diagnose(std::string(1000, 'x'), "paper");
  CHECK_FALSE(none.has_terminator);
  CHECK_FALSE(none.has_boundary);
  CHECK(none.n_sentences == 0);
  CHECK(none.open_tokens == 1000);
  CHECK(none.longest_share == 1.0);
  CHECK(none.forecasts[1].ratio == 0.0);
  CHECK(none.forecasts[1].held_ratio == 1.0);
  const auto marks = diagnose("3.14159", "paper");
  CHECK(marks.has_terminator);
  CHECK_FALSE(marks.has_boundary);
  const auto cut = diagnose(std::string(1000, 'x'), "paper,max_length:100");
  CHECK_FALSE(cut.has_boundary);
  CHECK(cut.n_sentences == 10);
  CHECK(cut.longest_bytes == 1000);
  CHECK(cut.longest_tokens == 100);
  CHECK(cut.forecasts[2].ratio == doctest::Approx(25.0));
  const auto chinese = diagnose("\xE5\xA5\xBD\xE3\x80\x82", "unicode");
  CHECK(chinese.has_terminator);
  CHECK(chinese.n_sentences == 1);
}

TEST_CASE("diagnostics: empty text") {
  const auto d = diagnose("", "english");
  CHECK(d.n_bytes == 0);
  CHECK(d.n_tokens == 0);
  CHECK(d.n_sentences == 0);
  CHECK(d.longest_bytes == 0);
  CHECK(d.longest_share == 0.0);
  CHECK_FALSE(d.has_boundary);
  CHECK(d.forecasts[1] == text::compression_forecast{1, 0, 0.0, 0.0});
}
