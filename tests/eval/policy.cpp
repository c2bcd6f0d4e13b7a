// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/random.hpp>
#include <gistkv/eval/policy.hpp>

namespace gistkv {

namespace {

using list = std::vector<std::int32_t>;

TEST_CASE("keep-lists by marks") {
  const std::vector<std::uint8_t> marked = {1, 0, 1, 0, 0, 1, 0, 0, 0, 0};
  CHECK(cache::keep_marked(marked, {4, 2}) == list{2, 5, 8, 9});
  CHECK(cache::keep_marked(marked, {6, 2}) == list{0, 2, 5, 7, 8, 9});  // Room left: the newest.
  CHECK(cache::keep_marked(marked, {3, 3}) == list{7, 8, 9});
  CHECK(cache::keep_marked(marked, {2, 0}) == list{2, 5});
  CHECK(cache::keep_marked(marked, {10, 2}).size() == 10);
  CHECK(cache::keep_marked(marked, {0, 0}).empty());
  CHECK(cache::keep_marked({}, {3, 1}).empty());
  CHECK_THROWS_AS(cache::keep_marked(marked, {3, 4}), argument_error);
}

TEST_CASE("keep-lists by scores") {
  const std::vector<float> scores = {5, 1, 4, 4, 0, 9, 0, 0};
  CHECK(cache::keep_scored(scores, {4, 1}) == list{0, 3, 5, 7});  // Of equal scores the newer.
  CHECK(cache::keep_scored(scores, {5, 1}) == list{0, 2, 3, 5, 7});
  CHECK(cache::keep_scored(scores, {3, 0}) == list{0, 3, 5});
  const std::vector<float> broken = {std::numeric_limits<float>::quiet_NaN(), 1, 2};
  CHECK(cache::keep_scored(broken, {1, 0}) == list{2});
  CHECK(cache::keep_scored(broken, {2, 0}) == list{1, 2});
  CHECK(cache::max_pooled(scores, 3) == std::vector<float>{5, 5, 4, 4, 9, 9, 9, 0});
  CHECK(cache::max_pooled(scores, 1) == scores);
}

TEST_CASE("keep-lists of sentences") {
  const std::vector<std::uint8_t> ends = {0, 1, 0, 0, 1, 1, 0, 0};
  CHECK(cache::keep_sentences(ends, 0) == list{6, 7});
  CHECK(cache::keep_sentences(ends, 1) == list{5, 6, 7});
  CHECK(cache::keep_sentences(ends, 2) == list{2, 3, 4, 5, 6, 7});
  CHECK(cache::keep_sentences(ends, 3).size() == 8);
  CHECK(cache::keep_sentences(ends, 9).size() == 8);
  CHECK(cache::keep_sentences(std::vector<std::uint8_t>{1}, 0).empty());
  CHECK(cache::keep_sentences({}, 2).empty());
}

TEST_CASE("rows that a pass reads") {
  const std::vector<std::uint8_t> plain(20, 0);
  eval::policy p;
  p.rule = {.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0};
  std::vector<index_t> want;
  for (index_t i = 1; i <= 20; ++i) want.push_back(i);
  CHECK(eval::rows_read(p, plain) == want);
  p.rule = {.n_gist = 0, .recent = 0, .n_sink = 2, .window = 5};
  for (index_t& n : want) n = std::min<index_t>(n, 7);
  CHECK(eval::rows_read(p, plain) == want);
  p.rule.window = 0;
  p.eviction = eval::eviction::separators;
  p.rows = 5;
  p.block = 4;
  // Positions 2, 3 | 4 to 7: six rows, five stay | 8 to 11: up to nine, five stay | ...
  want = {1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 10, 11, 8, 9, 10, 11, 8, 9, 10, 11};
  CHECK(eval::rows_read(p, plain) == want);
  p.eviction = eval::eviction::newest;
  CHECK(eval::rows_read(p, plain) == want);
  CHECK(p.budget().recent == 5);
  // Gists that are among the local rows too count twice: four tokens and two gists, K = 0.
  const std::vector<std::uint8_t> gists = {0, 0, 0, 0, 1, 1, 0, 0};
  eval::policy sag;
  sag.rule = {.n_gist = 2, .recent = 0, .n_sink = 1, .window = 0};
  CHECK(eval::rows_read(sag, gists) == std::vector<index_t>{1, 2, 3, 4, 6, 8, 4, 5});
  // A sink row, a sentence of 2 behind it, sentences of 3 and 2, the open one; one closed stays.
  eval::policy recent;
  recent.rule = {.n_gist = 0, .recent = 0, .n_sink = 1, .window = 0};
  recent.eviction = eval::eviction::sentences;
  recent.sentences = 1;
  const std::vector<std::uint8_t> tokens(10, 0);
  const std::vector<std::uint8_t> ends = {0, 0, 1, 0, 0, 1, 0, 1, 0, 0};
  CHECK(eval::rows_read(recent, tokens, ends) ==
        std::vector<index_t>{1, 2, 3, 4, 5, 6, 5, 6, 4, 5});
  CHECK_THROWS_AS(eval::rows_read(recent, tokens), argument_error);
}

TEST_CASE("a budget is fitted to within one percent") {
  random_generator random(3);
  for (int round = 0; round < 20; ++round) {
    const index_t n = 600 + random.below(3000);
    std::vector<std::uint8_t> counted(static_cast<std::size_t>(n), 0);
    for (index_t i = n / 2; i < n; ++i) counted[static_cast<std::size_t>(i)] = 1;
    const double target = 130 + static_cast<double>(random.below(n / 3));
    for (int kind = 0; kind < 4; ++kind) {
      eval::policy p;
      p.rule = {.n_gist = 0, .recent = 0, .n_sink = 4, .window = kind == 0 ? 1 : 0};
      p.eviction = static_cast<eval::eviction>(kind);
      p.rows = 1;
      const eval::policy fit = eval::fitted(p, counted, target);
      const double mean =
          eval::mean_rows_read(fit, std::vector<std::uint8_t>(counted.size(), 0), counted);
      CAPTURE(target);
      CHECK(std::abs(mean / target - 1) < 0.01);
    }
  }
}

TEST_CASE("policies that contradict themselves") {
  eval::policy p;
  p.eviction = eval::eviction::heavy_hitters;
  p.rows = 10;
  CHECK_NOTHROW(validate(p));
  p.rule.n_gist = 2;
  CHECK_THROWS_AS(validate(p), argument_error);
  p.rule.n_gist = 0;
  p.rule.window = 3;
  CHECK_THROWS_AS(validate(p), argument_error);
  p.rule.window = 0;
  p.recent = 1.5;
  CHECK_THROWS_AS(validate(p), argument_error);
  p.recent = 0.5;
  p.block = 0;
  CHECK_THROWS_AS(validate(p), argument_error);
  p.eviction = eval::eviction::sentences;
  CHECK_NOTHROW(validate(p));
  p.sentences = -1;
  CHECK_THROWS_AS(validate(p), argument_error);
}

}  // namespace

}  // namespace gistkv
