// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/quantize.hpp>
#include <gistkv/core/random.hpp>

#include <support/data.hpp>

namespace {

using namespace gistkv;

constexpr std::array all_types = {weight_type::f32,  weight_type::f16,  weight_type::bf16,
                                  weight_type::q8_0, weight_type::q4_0, weight_type::q4_1,
                                  weight_type::q4_k, weight_type::q5_k, weight_type::q6_k};

weight_type type_named(const std::string& name) {
  for (const weight_type type : all_types) {
    if (to_string(type) == name) return type;
  }
  throw argument_error("no weight type " + name);
}

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

/// Offset plus scale: the compiler may fuse the two into one rounding.
bool has_minimum(weight_type type) {
  return type == weight_type::q4_1 || type == weight_type::q4_k || type == weight_type::q5_k;
}

TEST_CASE("block sizes are those of the GGUF format") {
  struct expectation {
    weight_type type;
    index_t length;
    std::size_t bytes;
  };
  // Bits a weight times length over 8: 4.5, 5, 8.5, 4.5, 5.5 and 6.5625 bits for the block types.
  const std::array<expectation, 9> expected = {{{weight_type::f32, 1, 4},
                                                {weight_type::f16, 1, 2},
                                                {weight_type::bf16, 1, 2},
                                                {weight_type::q8_0, 32, 34},
                                                {weight_type::q4_0, 32, 18},
                                                {weight_type::q4_1, 32, 20},
                                                {weight_type::q4_k, 256, 144},
                                                {weight_type::q5_k, 256, 176},
                                                {weight_type::q6_k, 256, 210}}};
  for (const expectation& e : expected) {
    CAPTURE(to_string(e.type));
    CHECK(block_length(e.type) == e.length);
    CHECK(row_bytes(e.type, e.length) == e.bytes);
    CHECK(row_bytes(e.type, 7 * e.length) == 7 * e.bytes);
    CHECK(row_bytes(e.type, 0) == 0);
  }
}

TEST_CASE("row_bytes refuses what is no whole row") {
  CHECK_THROWS_WITH_AS(row_bytes(weight_type::q4_1, 33),
                       "row_bytes: a row of 33 elements of type q4_1, expected a multiple of 32",
                       shape_error);
  CHECK_THROWS_AS(row_bytes(weight_type::q6_k, 128), shape_error);
  CHECK_THROWS_AS(row_bytes(weight_type::f32, -1), shape_error);
  CHECK_THROWS_AS(row_bytes(weight_type::f32, std::numeric_limits<index_t>::max()), shape_error);
  CHECK_THROWS_AS(row_bytes(static_cast<weight_type>(99), 32), argument_error);
}

TEST_CASE("blocks decode as an independent decoder does") {
  const auto path = test::source_dir() / "tests" / "data" / "block_formats.json";
  std::ifstream stream(path);
  REQUIRE_MESSAGE(stream.good(), path.string());
  const auto document = nlohmann::json::parse(stream);
  std::size_t n_cases = 0;
  for (const auto& item : document.at("cases")) {
    const weight_type type = type_named(item.at("type").get<std::string>());
    CAPTURE(to_string(type));
    const auto bytes = from_hex(item.at("bytes").get<std::string>());
    const auto expected = item.at("values").get<std::vector<float>>();
    const auto n = static_cast<index_t>(expected.size());
    REQUIRE(bytes.size() == row_bytes(type, n));
    float scale = 0.0F;
    for (const float x : expected) scale = std::max(scale, std::abs(x));
    REQUIRE(scale > 0.0F);
    const float tolerance = has_minimum(type) ? scale * 0x1p-22F : 0.0F;
    // One byte of lead: rows of a file are not aligned.
    std::vector<std::byte> shifted(1);
    shifted.insert(shifted.end(), bytes.begin(), bytes.end());
    std::vector<float> actual(expected.size() + 1, 12345.0F);
    dequantize(type, shifted.data() + 1, n, actual.data());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      REQUIRE(std::abs(actual[i] - expected[i]) <= tolerance);
    }
    CHECK(actual.back() == 12345.0F);
    ++n_cases;
  }
  CHECK(n_cases == all_types.size());
}

TEST_CASE("f16 and bf16 rows keep infinities, zeros and subnormals") {
  std::array<f16, 4> halves;
  halves[0].bits = 0x7c00;
  halves[1].bits = 0x8000;
  halves[2].bits = 0x0001;
  halves[3].bits = 0xfbff;
  std::array<float, 4> out{};
  dequantize(weight_type::f16, reinterpret_cast<const std::byte*>(halves.data()), 4, out.data());
  CHECK(out[0] == std::numeric_limits<float>::infinity());
  CHECK((out[1] == 0.0F && std::signbit(out[1])));
  CHECK(out[2] == 0x1p-24F);
  CHECK(out[3] == -65504.0F);
  std::array<bf16, 2> brain;
  brain[0].bits = 0xff80;
  brain[1].bits = 0x3f80;
  dequantize(weight_type::bf16, reinterpret_cast<const std::byte*>(brain.data()), 2, out.data());
  CHECK(out[0] == -std::numeric_limits<float>::infinity());
  CHECK(out[1] == 1.0F);
}

TEST_CASE("dequantize refuses part of a block and decodes none") {
  std::array<std::byte, 64> row{};
  std::array<float, 64> out{};
  CHECK_THROWS_AS(dequantize(weight_type::q8_0, row.data(), 16, out.data()), shape_error);
  dequantize(weight_type::q8_0, nullptr, 0, nullptr);
}

TEST_CASE("dequantize_row takes one row and checks the bytes") {
  const std::array<float, 6> values = {1, 2, 3, 4, 5, 6};
  host_matrix m{"w", weight_type::f32, 3, 2, std::as_bytes(std::span(values))};
  std::array<float, 2> out{};
  dequantize_row(m, 2, out.data());
  CHECK(out == std::array<float, 2>{5, 6});
  CHECK_THROWS_AS(dequantize_row(m, 3, out.data()), shape_error);
  CHECK_THROWS_AS(dequantize_row(m, -1, out.data()), shape_error);
  m.data = m.data.first(20);
  dequantize_row(m, 1, out.data());
  CHECK(out == std::array<float, 2>{3, 4});
  CHECK_THROWS_WITH_AS(dequantize_row(m, 2, out.data()),
                       "dequantize_row: row 2 of 'w' needs 8 bytes a row, found 20 bytes in all",
                       shape_error);
}

TEST_CASE("quantize then dequantize stays within half a level") {
  constexpr index_t n = 96;
  random_generator random(7);
  for (const weight_type type : {weight_type::f32, weight_type::f16, weight_type::bf16,
                                 weight_type::q8_0, weight_type::q4_0, weight_type::q4_1}) {
    CAPTURE(to_string(type));
    for (int round = 0; round < 50; ++round) {
      std::vector<float> x(n);
      const double shift = random.uniform(-1, 1);
      for (float& v : x) v = static_cast<float>(shift + random.normal());
      std::vector<std::byte> row(row_bytes(type, n));
      quantize(type, x.data(), n, row.data());
      std::vector<float> y(n);
      dequantize(type, row.data(), n, y.data());
      for (index_t block = 0; block < n; block += 32) {
        const float* b = x.data() + block;
        const auto [low, high] = std::minmax_element(b, b + 32);
        const float largest = std::max(std::abs(*low), std::abs(*high));
        // Half a step, and what the float16 scale and minimum lose, up to 2^-11 of the range each.
        double bound = 0.0;
        if (type == weight_type::f16) bound = largest * 0x1p-11;
        if (type == weight_type::bf16) bound = largest * 0x1p-8;
        if (type == weight_type::q8_0) bound = largest * (0.5 / 127 + 0x1p-11);
        // The end opposite to the extreme has one level less, so a whole step may be missing there.
        if (type == weight_type::q4_0) bound = largest * (1.0 / 8 + 0x1p-11);
        if (type == weight_type::q4_1)
          bound = (*high - *low) * (0.5 / 15 + 0x1p-10) + largest * 0x1p-10;
        for (index_t i = 0; i < 32; ++i) {
          const auto at = static_cast<std::size_t>(block + i);
          REQUIRE(std::abs(static_cast<double>(y[at]) - x[at]) <= bound * (1 + 1e-6));
        }
      }
    }
  }
}

TEST_CASE("quantize keeps constants and zeros, and what it cannot write it refuses") {
  std::array<float, 32> x{};
  std::array<float, 32> y;
  std::vector<std::byte> row(64);
  for (const weight_type type : {weight_type::q8_0, weight_type::q4_0, weight_type::q4_1}) {
    for (const float constant : {0.0F, 1.5F, -2.0F}) {
      x.fill(constant);
      y.fill(99.0F);
      quantize(type, x.data(), 32, row.data());
      dequantize(type, row.data(), 32, y.data());
      // The scale is a float16: 2^-11 of the value may be lost.
      for (const float v : y) CHECK(std::abs(v - constant) <= std::abs(constant) * 0x1p-10F);
    }
  }
  std::array<float, 256> long_row{};
  std::vector<std::byte> out(512);
  CHECK_THROWS_AS(quantize(weight_type::q4_k, long_row.data(), 256, out.data()), argument_error);
  CHECK_THROWS_AS(quantize(weight_type::q4_0, x.data(), 31, row.data()), shape_error);
}

}  // namespace
