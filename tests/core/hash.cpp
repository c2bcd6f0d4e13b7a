// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include <gistkv/core/hash.hpp>

namespace {

using namespace gistkv;

std::vector<std::byte> pattern(std::size_t n) {
  std::vector<std::byte> bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>((i * 7 + 3) % 256);
  return bytes;
}

struct expectation {
  std::size_t length;
  std::uint64_t plain;
  std::uint64_t seeded;
};

// Of `pattern`, by the reference library (PyPI xxhash): seed 0 and seed 0x123456789abcdef.
constexpr std::array<expectation, 13> reference = {{
    {0, 0xef46db3751d8e999, 0x51e24c0e9077a48c},
    {1, 0x1f25c8d0bc1f4bb6, 0x20f9f4e3fba1be06},
    {3, 0x31d2363f52e564c9, 0x076b77199119d7dd},
    {4, 0x9bb64b7d66ee9fda, 0x27a7e5587a8a5c2e},
    {7, 0x9a7b149959ce60d8, 0xcff13e1a810bec27},
    {8, 0xdab99d95c6f90092, 0x841e06da64a07ce8},
    {31, 0xa2aa5f33cc4a6119, 0x6ba872e910fbce5c},
    {32, 0x23c3c17ef790fd97, 0x25cc07da699894a9},
    {33, 0x50a7cfc7ba588784, 0xbf84912d4dea9670},
    {63, 0x5e3e54b431c7493c, 0x737629700e723da5},
    {64, 0x0eb64b3ef6eeb01f, 0xfded24eb11992703},
    {100, 0xa61f8d4c170fe531, 0xfe1fce732c97c212},
    {1000, 0x5f235fa033f1a3fb, 0x86fe41ff40ab90db},
}};

TEST_CASE("xxh64 equals the reference library") {
  for (const expectation& e : reference) {
    CAPTURE(e.length);
    const auto bytes = pattern(e.length);
    CHECK(hash_bytes(bytes) == e.plain);
    CHECK(hash_bytes(bytes, 0x123456789abcdef) == e.seeded);
  }
}

TEST_CASE("the digest does not depend on how the bytes arrive") {
  const auto bytes = pattern(200);
  const std::uint64_t whole = hash_bytes(bytes);
  for (std::size_t first = 0; first <= bytes.size(); ++first) {
    for (const std::size_t step : {1U, 5U, 31U, 32U, 33U, 200U}) {
      xxh64 hash;
      hash.update(std::span(bytes).first(first));
      std::span<const std::byte> rest = std::span(bytes).subspan(first);
      while (!rest.empty()) {
        const std::size_t n = std::min(step, rest.size());
        hash.update(rest.first(n));
        rest = rest.subspan(n);
      }
      REQUIRE(hash.digest() == whole);
    }
  }
}

TEST_CASE("every single bit counts") {
  auto bytes = pattern(97);
  std::set<std::uint64_t> digests = {hash_bytes(bytes)};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      digests.insert(hash_bytes(bytes));
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
  CHECK(digests.size() == 97 * 8 + 1);
}

}  // namespace
