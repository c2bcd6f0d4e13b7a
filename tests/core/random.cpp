// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>

#include <gistkv/core/random.hpp>

namespace gistkv {
namespace {

TEST_CASE("splitmix64 gives the numbers of its published reference for seed 1234567") {
  random_generator random(1234567);
  for (const std::uint64_t want :
       {6457827717110365317ULL, 3203168211198807973ULL, 9817491932198370423ULL,
        4593380528125082431ULL, 16408922859458223821ULL}) {
    CHECK(random.next() == want);
  }
}

TEST_CASE("uniform, below and normal are made of the same bits everywhere") {
  random_generator random(1234567);
  CHECK(random.uniform() == static_cast<double>(6457827717110365317ULL >> 11) * 0x1p-53);
  CHECK(random.below(1000) == 173);  // floor(1000 * 3203168211198807973 / 2^64)
  CHECK(random.uniform(-1.0, 1.0) ==
        -1.0 + 2.0 * (static_cast<double>(9817491932198370423ULL >> 11) * 0x1p-53));
  const double u = static_cast<double>(4593380528125082431ULL >> 11) * 0x1p-53;
  const double v = static_cast<double>(16408922859458223821ULL >> 11) * 0x1p-53;
  CHECK(random.normal() ==
        doctest::Approx(std::sqrt(-2.0 * std::log(1.0 - u)) * std::cos(6.283185307179586 * v)));
}

TEST_CASE("a generator continues from its state, and equal seeds give equal numbers") {
  random_generator first(7);
  for (int i = 0; i < 10; ++i) first.next();
  random_generator second(first.state());
  random_generator third(7);
  for (int i = 0; i < 10; ++i) third.next();
  for (int i = 0; i < 10; ++i) {
    const std::uint64_t value = first.next();
    CHECK(second.next() == value);
    CHECK(third.next() == value);
  }
  CHECK(random_generator(8).next() != random_generator(7).next());
}

TEST_CASE("moments and ranges") {
  random_generator random(42);
  constexpr int n = 200000;
  double sum = 0.0;
  double squares = 0.0;
  double uniforms = 0.0;
  std::array<int, 7> counts{};
  bool inside = true;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
    const double u = random.uniform();
    inside = inside && u >= 0.0 && u < 1.0;
    uniforms += u;
    const index_t k = random.below(7);
    REQUIRE(k >= 0);
    REQUIRE(k < 7);
    counts[static_cast<std::size_t>(k)] += 1;
  }
  CHECK(inside);
  CHECK(std::abs(sum / n) < 0.01);  // Four standard errors.
  CHECK(std::abs(squares / n - 1.0) < 0.013);
  CHECK(std::abs(uniforms / n - 0.5) < 0.003);
  for (const int count : counts) CHECK(std::abs(count - n / 7) < 650);
  CHECK(random.below(1) == 0);
}

}  // namespace
}  // namespace gistkv
