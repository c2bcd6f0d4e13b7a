// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/core/random.hpp>
#include <gistkv/eval/statistics.hpp>

namespace gistkv {

namespace {

TEST_CASE("a bootstrap interval has the width that theory gives a mean") {
  random_generator random(11);
  std::vector<double> x;
  for (int i = 0; i < 400; ++i) x.push_back(3 + 2 * random.normal());
  const auto e = eval::bootstrap(x.size(), [&](auto items) { return eval::mean_of(x, items); });
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / 400;
  CHECK(e.value == doctest::Approx(mean));
  CHECK((e.high - e.low) / 2 == doctest::Approx(1.96 * 2 / 20).epsilon(0.15));
  CHECK(e.low < e.value);
  CHECK(e.value < e.high);
}

TEST_CASE("intervals cover the truth about as often as they say") {
  random_generator random(12);
  int covered = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<double> x;
    for (int i = 0; i < 40; ++i) x.push_back(random.uniform());
    const auto e = eval::bootstrap(
        x.size(), [&](auto items) { return eval::mean_of(x, items); }, 1, 400);
    covered += e.low <= 0.5 && 0.5 <= e.high ? 1 : 0;
  }
  CHECK(covered >= 178);  // Of 200 draws of probability 0.95, four deviations below the mean.
  CHECK(covered <= 199);
}

TEST_CASE("a paired difference is narrower than its parts") {
  random_generator random(13);
  std::vector<double> a, b;
  for (int i = 0; i < 100; ++i) {
    a.push_back(10 * random.normal());
    b.push_back(a.back() + 1 + 0.1 * random.normal());
  }
  const auto one = eval::bootstrap(100, [&](auto items) { return eval::mean_of(b, items); });
  const auto paired = eval::bootstrap(
      100, [&](auto items) { return eval::mean_of(b, items) - eval::mean_of(a, items); });
  CHECK(paired.low > 0.9);
  CHECK(paired.high < 1.1);
  CHECK(one.high - one.low > 20 * (paired.high - paired.low));
}

TEST_CASE("items of one group are drawn together") {
  random_generator random(14);
  std::vector<double> x, thrice;
  for (int i = 0; i < 50; ++i) x.push_back(random.normal());
  for (const double value : x) thrice.insert(thrice.end(), 3, value);
  const std::vector<std::size_t> sizes(50, 3);
  const auto one = eval::bootstrap(50, [&](auto items) { return eval::mean_of(x, items); });
  const auto grouped =
      eval::grouped_bootstrap(sizes, [&](auto items) { return eval::mean_of(thrice, items); });
  CHECK(grouped.value == doctest::Approx(one.value));
  CHECK(grouped.low == doctest::Approx(one.low));
  CHECK(grouped.high == doctest::Approx(one.high));
  const auto alone = eval::bootstrap(150, [&](auto items) { return eval::mean_of(thrice, items); });
  CHECK(alone.high - alone.low < 0.8 * (grouped.high - grouped.low));

  // Groups of different sizes: each item of a group, and nothing else, with it.
  const std::vector<std::size_t> uneven = {1, 0, 2};
  eval::grouped_bootstrap(uneven, [](std::span<const std::size_t> items) {
    const auto n = [&](std::size_t i) { return std::count(items.begin(), items.end(), i); };
    CHECK(n(1) == n(2));
    CHECK(n(0) + n(1) + n(2) == static_cast<std::ptrdiff_t>(items.size()));
    return 0.0;
  });
}

TEST_CASE("edges") {
  const std::vector<double> x = {4};
  const auto e = eval::bootstrap(1, [&](auto items) { return eval::mean_of(x, items); });
  CHECK(e.low == 4);
  CHECK(e.high == 4);
  CHECK_THROWS_AS(eval::bootstrap(0, [](auto) { return 0.0; }), argument_error);
  const std::vector<double> over = {1, 2, 3}, under = {2, 2, 2};
  const std::vector<std::size_t> items = {2, 2, 0};
  CHECK(eval::ratio_of_sums(over, under, items) == doctest::Approx(7.0 / 6));
}

TEST_CASE("a sample depends on names, not on their order") {
  std::vector<std::string> names;
  for (int i = 0; i < 100; ++i) names.push_back("book " + std::to_string(i));
  auto named = [](const std::vector<std::string>& all, const std::vector<std::size_t>& chosen) {
    std::vector<std::string> found;
    for (const std::size_t i : chosen) found.push_back(all[i]);
    return found;
  };
  const auto ten = named(names, eval::sampled(names, 10, 5));
  auto reversed = names;
  std::reverse(reversed.begin(), reversed.end());
  CHECK(named(reversed, eval::sampled(reversed, 10, 5)) == ten);
  const auto twenty = named(names, eval::sampled(names, 20, 5));
  CHECK(std::equal(ten.begin(), ten.end(), twenty.begin()));
  CHECK(named(names, eval::sampled(names, 10, 6)) != ten);
  CHECK(eval::sampled(names, 0, 5).size() == 100);
  CHECK(eval::sampled(names, 1000, 5).size() == 100);
}

}  // namespace

}  // namespace gistkv
