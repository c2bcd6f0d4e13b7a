// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Few rows times a panel of weights in bf16 as oneDNN lays it out where the CPU multiplies those,
// which it does not here: the kernel by itself. Factors are small whole numbers, sums are exact.
#include <doctest/doctest.h>

#include <cstddef>
#include <span>
#include <vector>

#include <gistkv/backends/onednn/cpu.hpp>
#include <gistkv/core/random.hpp>

#include "emulated/intrinsics.hpp"
#include "support/data.hpp"

namespace gistkv {
namespace {

using backends::instruction_set;
using namespace backends::onednn_detail;

std::vector<bf16> small_numbers(random_generator& random, index_t n) {
  std::vector<bf16> x;
  for (index_t i = 0; i < n; ++i) x.push_back(bf16(static_cast<float>(random.below(9)) - 4));
  return x;
}

// What the other files of this program take for granted.
TEST_CASE("the CPU seems to have every instruction set") {
  if (!emulated::possible()) return test::skip("this CPU lacks AVX2");
  CHECK(backends::best_instruction_set() == instruction_set::amx);
}

TEST_CASE_TEMPLATE("few rows times a panel of weights in bf16", T, float, bf16) {
  if (!emulated::possible()) return test::skip("this CPU lacks AVX2");
  const few_rows_function<T> product = few_rows_for<T>(instruction_set::avx512_bf16);
  random_generator random(3);
  for (const index_t cols : {2, 34, 160}) {
    const auto weights = small_numbers(random, weight_panel * cols);  // [64, cols]
    std::vector<bf16> panel(weights.size());                          // [cols / 2][64][2]
    for (index_t r = 0; r < weight_panel; ++r) {
      for (index_t k = 0; k < cols; ++k) {
        const index_t at = (k / 2 * weight_panel + r) * 2 + k % 2;
        panel[static_cast<std::size_t>(at)] = weights[static_cast<std::size_t>(r * cols + k)];
      }
    }
    for (index_t n = 1; n <= most_few_rows; ++n) {
      const auto x = small_numbers(random, n * cols);
      for (const index_t n_out : {1, 16, 41, 64}) {
        CAPTURE(cols);
        CAPTURE(n);
        CAPTURE(n_out);
        const index_t ldo = n_out + 3;
        const T untouched(-7.5F);
        std::vector<T> o(static_cast<std::size_t>(n * ldo), untouched);
        product(o.data(), ldo, x.data(), n, cols, std::as_bytes(std::span(panel)).data(), n_out);
        index_t wrong = 0;
        for (index_t i = 0; i < n; ++i) {
          for (index_t r = 0; r < ldo; ++r) {
            float sum = 0;
            for (index_t k = 0; k < cols && r < n_out; ++k) {
              sum += static_cast<float>(x[static_cast<std::size_t>(i * cols + k)]) *
                     static_cast<float>(weights[static_cast<std::size_t>(r * cols + k)]);
            }
            const T want = r < n_out ? T(sum) : untouched;
            wrong += o[static_cast<std::size_t>(i * ldo + r)] == want ? 0 : 1;
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}

}  // namespace
}  // namespace gistkv
