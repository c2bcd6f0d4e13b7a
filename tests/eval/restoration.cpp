// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/eval/restoration.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/types.hpp>

namespace {

using gistkv::token_t;
using gistkv::eval::bleu;
using gistkv::eval::restored;
using tokens = std::vector<token_t>;

TEST_CASE("a text that is restored has all of it") {
  const tokens text = {5, 6, 7, 8, 9, 5, 6};
  const auto r = restored(text, text);
  CHECK(r.in_place == 7);
  CHECK(r.exact_prefix == 7);
  CHECK(bleu(r) == doctest::Approx(1.0));
}

TEST_CASE("the numbers of a text that is restored in part, by hand") {
  // Written 1 2 3 4 9 6, wanted 1 2 3 4 5 6 7: shares 5/6, 3/5, 2/4, 1/3; brevity exp(1 - 7/6).
  const auto r = restored(tokens{1, 2, 3, 4, 9, 6}, tokens{1, 2, 3, 4, 5, 6, 7});
  CHECK(r.in_place == 5);
  CHECK(r.exact_prefix == 4);
  CHECK(r.matches == std::array<double, 4>{5, 3, 2, 1});
  CHECK(r.n_grams == std::array<double, 4>{6, 5, 4, 3});
  CHECK(bleu(r) == doctest::Approx(std::pow(5.0 / 6 * 3 / 5 * 2 / 4 * 1 / 3, 0.25) *
                                   std::exp(1.0 - 7.0 / 6.0)));
}

TEST_CASE("what is repeated counts as often as the text has it") {
  const auto r = restored(tokens{1, 1, 1, 1}, tokens{1, 2, 1, 3});
  CHECK(r.matches[0] == 2);
  CHECK(r.in_place == 2);
  CHECK(r.exact_prefix == 1);
  CHECK(bleu(r) == 0);
}

TEST_CASE("nothing written is nothing restored") {
  const auto r = restored({}, tokens{1, 2});
  CHECK(r.in_place == 0);
  CHECK(bleu(r) == 0);
}

}  // namespace
