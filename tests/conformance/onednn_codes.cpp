// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Weights in codes meet activations in 16 bits with a power of two a block: what the suite's
// inputs, all of one size, do not reach.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/conformance/inputs.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/quantize.hpp>
#include <gistkv/ops/linear.hpp>

#include "support/data.hpp"
#include "support/instruction_sets.hpp"

namespace gistkv {
namespace {

using backends::instruction_set;
using fast = backends::onednn<float, bf16>;

constexpr index_t d_in = 160;  // An odd number of blocks.
constexpr index_t d_out = 70;

struct codes {
  std::vector<std::byte> bytes;
  host_matrix host;

  codes(weight_type type, random_generator& random)
      : bytes(row_bytes(type, d_in) * static_cast<std::size_t>(d_out)),
        host{"w", type, d_out, d_in, bytes} {
    for (index_t r = 0; r < d_out; ++r) {
      std::vector<float> row;
      for (const double w : conformance::normals(random, d_in)) {
        row.push_back(static_cast<float>(w));
      }
      quantize(type, row.data(), d_in,
               bytes.data() + static_cast<std::size_t>(r) * row_bytes(type, d_in));
    }
  }
  codes(const codes&) = delete;
};

std::vector<float> product(fast& be, const codes& w, const std::vector<float>& x, index_t n) {
  std::vector<float> o(static_cast<std::size_t>(n * d_out));
  const auto packed = be.pack(w.host);
  ops::linear<fast, float>(be, matrix_view<float>(o.data(), {n, d_out}),
                           matrix_view<const float>(x.data(), {n, d_in}), packed);
  return o;
}

/// The same with coarse rows.
std::vector<float> product(fast& be, const codes& w, const std::vector<float>& x, index_t n,
                           row_range coarse) {
  std::vector<float> o(static_cast<std::size_t>(n * d_out));
  const auto packed = be.pack(w.host);
  const linear_output<fast, float> to{matrix_view<float>(o.data(), {n, d_out}), &packed};
  ops::linears<fast, float>(be, {&to, 1}, matrix_view<const float>(x.data(), {n, d_in}), coarse);
  return o;
}

/// Six deviations of what rounding to 127 steps up and down a block does to o[i, r], and some
/// digits of float.
double coarse_budget(const codes& w, const std::vector<float>& x, index_t i, index_t r) {
  std::vector<float> row(d_in);
  dequantize_row(w.host, r, row.data());
  double variance = 0;
  double size = 0;
  for (index_t b = 0; b < d_in; b += 32) {
    double most = 0;
    double squares = 0;
    for (index_t k = b; k < b + 32; ++k) {
      const auto v = static_cast<double>(x[static_cast<std::size_t>(i * d_in + k)]);
      const auto weight = static_cast<double>(row[static_cast<std::size_t>(k)]);
      most = std::max(most, std::abs(v));
      squares += weight * weight;
      size += std::abs(v * weight);
    }
    variance += most * most / (127.0 * 127.0 * 12.0) * squares;
  }
  return 6 * std::sqrt(variance) + 1e-4 * size + 1e-30;
}

/// The instruction sets of this CPU that multiply codes. On others these weights are floats, and
/// other tests have all there is to see.
std::vector<instruction_set> sets_with_codes() {
  const auto sets = test::instruction_sets(instruction_set::avx2);
  if (sets.empty()) test::skip("this CPU multiplies no weights in codes");
  return sets;
}
/// Elsewhere coarse rows save nothing.
bool has_coarse_rows(instruction_set isa) { return isa >= instruction_set::avx512_vnni; }

TEST_SUITE_BEGIN("conformance");

void check_blocks_of_any_size(instruction_set isa) {
  fast be({.isa = isa});
  random_generator random(5);
  for (const weight_type type : {weight_type::q8_0, weight_type::q4_0, weight_type::q4_1}) {
    const codes w(type, random);
    for (const index_t n : {1, 3, 5, 31}) {
      CAPTURE(to_string(type));
      CAPTURE(n);
      std::vector<float> x;
      for (index_t i = 0; i < n * d_in; ++i) {
        // Each block of a row of another size; which one is largest differs by row.
        const auto power = static_cast<int>(i / 32 * 7 % 11) * 8 - 40;
        x.push_back(static_cast<float>(
            std::ldexp(conformance::normals(random, 1).front(), i % d_in < 32 ? -130 : power)));
      }
      const std::vector<float> o = product(be, w, x, n);
      double worst = 0;
      std::vector<float> row(d_in);
      for (index_t r = 0; r < d_out; ++r) {
        dequantize_row(w.host, r, row.data());
        for (index_t i = 0; i < n; ++i) {
          double sum = 0;
          double size = 0;
          for (index_t k = 0; k < d_in; ++k) {
            const double p = static_cast<double>(x[static_cast<std::size_t>(i * d_in + k)]) *
                             static_cast<double>(row[static_cast<std::size_t>(k)]);
            sum += p;
            size += std::abs(p);
          }
          const auto found = static_cast<double>(o[static_cast<std::size_t>(i * d_out + r)]);
          worst = std::max(worst, std::abs(found - sum) / size);
        }
      }
      MESSAGE(to_string(type) << ", " << n << " rows: " << worst << " of the sum of magnitudes");
      // Many rows may meet minima in bf16.
      const bool narrow = isa >= instruction_set::avx512_bf16 && n > 12;
      CHECK(worst < (type == weight_type::q4_1 && narrow ? 2e-3 : 1e-4));
    }
  }
}

TEST_CASE("blocks of activations may be of any size beside each other") {
  for (const instruction_set isa : sets_with_codes()) {
    CAPTURE(backends::to_string(isa));
    check_blocks_of_any_size(isa);
  }
}

void check_coarse_rows(instruction_set isa) {
  fast be({.isa = isa});
  random_generator random(8);
  double closest = 0;
  for (const weight_type type : {weight_type::q8_0, weight_type::q4_0, weight_type::q4_1}) {
    const codes w(type, random);
    for (index_t n_before = 0; n_before < 3; ++n_before) {
      for (index_t n_behind = 0; n_before + n_behind < 4; ++n_behind) {
        for (index_t n_coarse = 1; n_coarse < 9; ++n_coarse) {
          const index_t n = n_before + n_coarse + n_behind;
          const row_range coarse{n_before, n_before + n_coarse};
          CAPTURE(to_string(type));
          CAPTURE(n_before);
          CAPTURE(n_coarse);
          CAPTURE(n_behind);
          std::vector<float> x;
          for (index_t i = 0; i < n * d_in; ++i) {
            // Blocks of several sizes, one of zeros and one that is hardly more.
            const index_t block = i / 32 % 11;
            const float size = block == 3   ? 0.0F
                               : block == 5 ? 1e-36F
                                            : static_cast<float>(block + 1);
            x.push_back(size * static_cast<float>(conformance::normals(random, 1).front()));
          }
          const std::vector<float> fine = product(be, w, x, n);
          const std::vector<float> mixed = product(be, w, x, n, coarse);
          const index_t n_fine = n_before + n_behind;
          const bool takes = has_coarse_rows(isa) && n_coarse < 8 && n_fine > 0 && n_fine < 3;
          index_t n_changed = 0;
          for (index_t i = 0; i < n; ++i) {
            for (index_t r = 0; r < d_out; ++r) {
              const auto at = static_cast<std::size_t>(i * d_out + r);
              if (mixed[at] == fine[at]) continue;
              ++n_changed;
              CHECK(i >= coarse.begin);
              CHECK(i < coarse.end);
              const double error = std::abs(static_cast<double>(mixed[at] - fine[at]));
              closest = std::max(closest, error / coarse_budget(w, x, i, r));
            }
          }
          CHECK((n_changed > n_coarse * d_out / 2) == takes);
          CHECK((n_changed > 0) == takes);
        }
      }
    }
  }
  MESSAGE("largest error " << closest << " of its bound");
  CHECK(closest < 1);
}

TEST_CASE("coarse rows are rounded to 8 bits, and no other row changes") {
  for (const instruction_set isa : sets_with_codes()) {
    CAPTURE(backends::to_string(isa));
    check_coarse_rows(isa);
  }
}

/// Row `bad` of the weights has in its first block a scale of the given bits. Elements of that
/// block of x are so large that kernels shift exponents there.
std::vector<float> product_under_scale(instruction_set isa, weight_type type, index_t bad,
                                       std::uint16_t scale, float size, index_t n) {
  fast be({.isa = isa});
  random_generator random(7);
  codes w(type, random);
  std::memcpy(w.bytes.data() + static_cast<std::size_t>(bad) * row_bytes(type, d_in), &scale, 2);
  std::vector<float> x(static_cast<std::size_t>(n * d_in), 0.0F);
  for (index_t i = 0; i < n; ++i) {
    for (index_t k = 0; k < 32; ++k) x[static_cast<std::size_t>(i * d_in + k)] = size;
  }
  return product(be, w, x, n);
}

TEST_CASE("a scale of 0 is 0, and one that is no number or infinite stays so") {
  constexpr index_t bad = 19;
  constexpr std::array<std::uint16_t, 2> zeros = {0x0000, 0x8000};
  constexpr std::array<std::uint16_t, 3> no_numbers = {0x7c00, 0xfc00, 0x7e00};
  for (const instruction_set isa : sets_with_codes()) {
    CAPTURE(backends::to_string(isa));
    // A minimum would add to what the scale of a block makes 0.
    for (const weight_type type : {weight_type::q8_0, weight_type::q4_0}) {
      CAPTURE(to_string(type));
      for (const index_t n : {1, 5, 31}) {
        CAPTURE(n);
        for (const std::uint16_t zero : zeros) {
          const auto o = product_under_scale(isa, type, bad, zero, 1e37F, n);
          for (index_t i = 0; i < n; ++i) CHECK(o[static_cast<std::size_t>(i * d_out + bad)] == 0);
        }
        for (const std::uint16_t none : no_numbers) {
          const auto o = product_under_scale(isa, type, bad, none, 4, n);
          for (index_t i = 0; i < n * d_out; ++i) {
            CHECK(std::isfinite(o[static_cast<std::size_t>(i)]) == (i % d_out != bad));
          }
        }
      }
    }
  }
}

void check_no_numbers(instruction_set isa) {
  fast be({.isa = isa});
  random_generator random(6);
  const codes w(weight_type::q4_1, random);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const index_t n : {2, 31}) {
      std::vector<float> x(static_cast<std::size_t>(n * d_in), 1.0F);
      x[40] = bad;
      const std::vector<float> o = product(be, w, x, n);
      for (std::size_t i = 0; i < o.size(); ++i) {
        CHECK(std::isfinite(o[i]) == (i >= static_cast<std::size_t>(d_out)));
      }
    }
    std::vector<float> x(5 * d_in, 1.0F);
    x[2 * d_in + 40] = bad;
    const std::vector<float> o = product(be, w, x, 5, {1, 4});
    for (std::size_t i = 0; i < o.size(); ++i) {
      CHECK(std::isfinite(o[i]) == (i / static_cast<std::size_t>(d_out) != 2));
    }
  }
}

TEST_CASE("what is no number or infinite stays so in its row and in no other") {
  for (const instruction_set isa : sets_with_codes()) {
    CAPTURE(backends::to_string(isa));
    check_no_numbers(isa);
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv
