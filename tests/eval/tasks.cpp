// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/random.hpp>
#include <gistkv/eval/choices.hpp>
#include <gistkv/eval/needle.hpp>
#include <gistkv/eval/reading.hpp>

namespace gistkv {

namespace {

TEST_CASE("haystacks") {
  eval::haystack_options o;
  o.n_lines = 50;
  const auto h = eval::make_haystack(o, 3);
  CHECK(h.lines.size() == 50);
  CHECK(std::set<std::string>(h.lines.begin(), h.lines.end()).size() == 50);
  CHECK(h.text() == eval::make_haystack(o, 3).text());
  CHECK(h.text() != eval::make_haystack(o, 4).text());
  REQUIRE(h.keys.size() == 1);
  CHECK(h.lines[h.asked[0]] ==
        "One of the special magic numbers for " + h.keys[0] + " is: " + h.values[0] + ".");
  CHECK(std::stol(h.values[0]) >= 1);
  CHECK(std::stol(h.values[0]) <= 1'000'000);
  CHECK(h.question(0).ends_with(" is:"));
  o.depths = {0};
  CHECK(eval::make_haystack(o, 3).asked[0] == 0);
  o.depths = {1};
  CHECK(eval::make_haystack(o, 3).asked[0] == 49);
  o.depths = {0.5, 1, 0.5};
  const auto three = eval::make_haystack(o, 3);
  CHECK(three.asked == std::vector<std::size_t>{25, 49, 26});
  for (std::size_t d = 0; d < 3; ++d) {
    CHECK(three.together(d) == std::vector<std::size_t>{d});
    CHECK(three.question(d).find(three.keys[d]) != std::string::npos);
    CHECK(three.lines[three.asked[d]].find(three.keys[d] + " is: " + three.values[d]) !=
          std::string::npos);
  }
  o.depths = {1};
  o.n_keys = 4;
  o.value = eval::needle_value::words;
  const auto many = eval::make_haystack(o, 3);
  CHECK(std::set<std::size_t>(many.asked.begin(), many.asked.end()).size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(many.lines[many.asked[i]].find("words for " + many.keys[i] + " is: " + many.values[i]) !=
          std::string::npos);
    CHECK(many.question(0).find(many.keys[i]) != std::string::npos);
  }
  o.n_keys = 51;
  CHECK_THROWS_AS(eval::make_haystack(o, 3), argument_error);
  o.n_keys = 1;
  o.depths = {2};
  CHECK_THROWS_AS(eval::make_haystack(o, 3), argument_error);
  o.depths = {};
  CHECK_THROWS_AS(eval::make_haystack(o, 3), argument_error);
}

TEST_CASE("haystacks among the lines of a text") {
  std::vector<std::string> filler;
  for (int i = 0; i < 30; ++i) filler.push_back("Line " + std::to_string(i) + ".");
  eval::haystack_options o;
  o.n_lines = 5;
  o.n_keys = 2;
  std::set<std::string> found;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const double depth = static_cast<double>(seed % 4) / 3;
    o.depths = {depth};
    const auto h = eval::make_haystack(o, seed, filler);
    REQUIRE(h.lines.size() == 35);
    CHECK(h.asked[0] == static_cast<std::size_t>(depth * 34 + 0.5));
    CHECK(h.asked[1] != h.asked[0]);
    for (std::size_t k = 0; k < 2; ++k) {
      CHECK(h.lines[h.asked[k]] ==
            "One of the special magic numbers for " + h.keys[k] + " is: " + h.values[k] + ".");
    }
    std::vector<std::string> others;
    for (const std::string& line : h.lines) {
      if (line.starts_with("Line ")) others.push_back(line);
    }
    CHECK(others == filler);
    found.insert(h.text());
  }
  CHECK(found.size() == 20);
  CHECK(eval::make_haystack(o, 3, filler).text() == eval::make_haystack(o, 3, filler).text());
}

TEST_CASE("options of a multiple choice") {
  const std::vector<double> l = {-3, -1, -1, -2};
  CHECK(eval::best_choice(l) == 1);
  const auto p = eval::option_distribution(l);
  CHECK(p[0] + p[1] + p[2] + p[3] == doctest::Approx(1));
  CHECK(p[1] / p[0] == doctest::Approx(std::exp(2.0)));
  const std::vector<double> shifted = {-13, -11, -11, -12};
  CHECK(eval::option_divergence(l, shifted) == doctest::Approx(0).epsilon(1e-12));
  const std::vector<double> a = {std::log(0.5), std::log(0.5)};
  const std::vector<double> b = {std::log(0.25), std::log(0.75)};
  CHECK(eval::option_divergence(a, b) ==
        doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0)));
  CHECK_THROWS_AS(eval::option_divergence(a, l), argument_error);
  CHECK_THROWS_AS(eval::best_choice({}), argument_error);
}

TEST_CASE("labels drawn at random give chance") {
  random_generator random(9);
  double right = 0;
  constexpr int n = 4000;
  for (int i = 0; i < n; ++i) {
    std::vector<double> scores;
    for (int c = 0; c < 4; ++c) scores.push_back(random.normal());
    right += eval::best_choice(scores) == static_cast<std::size_t>(random.below(4)) ? 1 : 0;
  }
  CHECK(std::abs(right / n - 0.25) < 4 * std::sqrt(0.25 * 0.75 / n));
}

TEST_CASE("scores of a row of logits") {
  const std::vector<float> logits = {1, 2, 3, 0, 5};  // The last two are gists.
  const auto s = eval::score_row(logits, 3, 1);
  const double base = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  CHECK(s.nll() == doctest::Approx(std::log(base) - 2));
  CHECK(s.nll_with_gists() == doctest::Approx(std::log(base + 1 + std::exp(5.0)) - 2));
  CHECK(s.best == 3);
}

}  // namespace

}  // namespace gistkv
