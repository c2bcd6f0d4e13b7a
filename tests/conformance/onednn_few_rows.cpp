// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Few rows of activations meet weights in bf16 panel by panel, more of them in oneDNN, and where
// that multiplies floats all of them in panels of our own. Factors are small whole numbers, so that
// every order of adding up gives the same sum.
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/ops/linear.hpp>

#include "support/instruction_sets.hpp"

namespace gistkv {
namespace {

std::vector<float> small_numbers(random_generator& random, index_t n) {
  std::vector<float> x;
  for (index_t i = 0; i < n; ++i) x.push_back(static_cast<float>(random.below(9)) - 4);
  return x;
}

template <class B>
struct weight {
  index_t rows;
  index_t cols;
  std::vector<float> values;
  packed_weight_t<B> packed;

  weight(B& be, random_generator& random, index_t n_rows, index_t n_cols)
      : rows(n_rows),
        cols(n_cols),
        values(small_numbers(random, rows * cols)),
        packed(be.pack(
            {"w", weight_type::f32, rows, cols, std::as_bytes(std::span<const float>(values))})) {}

  template <class T>
  T product(const std::vector<T>& x, index_t i, index_t row) const {
    float sum = 0;
    for (index_t k = 0; k < cols; ++k) {
      sum += static_cast<float>(x[static_cast<std::size_t>(i * cols + k)]) *
             values[static_cast<std::size_t>(row * cols + k)];
    }
    return T(sum);
  }
};

template <class B>
void check_rows(B& be, random_generator& random, index_t n, index_t d_in) {
  using T = element_t<B>;
  CAPTURE(n);
  CAPTURE(d_in);
  const std::array<weight<B>, 3> w = {weight<B>(be, random, 130, d_in),
                                      weight<B>(be, random, 5, d_in),
                                      weight<B>(be, random, 192, d_in)};
  std::vector<T> x;
  for (const float v : small_numbers(random, n * d_in)) x.push_back(T(v));
  // The same with room between rows.
  std::vector<T> apart(static_cast<std::size_t>(n * (d_in + 3)), T(9.0F));
  const matrix_view<T> rows = matrix_view<T>(apart.data(), {n, d_in + 3}).slice(1, 0, d_in);
  for (index_t i = 0; i < n; ++i) {
    for (index_t k = 0; k < d_in; ++k) rows(i, k) = x[static_cast<std::size_t>(i * d_in + k)];
  }
  const matrix_view<const T> dense(x.data(), {n, d_in});

  // Side by side in rows that go on behind them.
  constexpr index_t width = 130 + 5 + 192 + 3;
  const T untouched(-7.0F);
  std::vector<T> o(static_cast<std::size_t>(n * width), untouched);
  const matrix_view<T> all(o.data(), {n, width});
  const std::array<linear_output<B, T>, 3> outputs = {{{all.slice(1, 0, 130), &w[0].packed},
                                                       {all.slice(1, 130, 5), &w[1].packed},
                                                       {all.slice(1, 135, 192), &w[2].packed}}};
  ops::linears<B, T>(be, outputs, rows);
  std::vector<T> single(static_cast<std::size_t>(n * 130));
  ops::linear<B, T>(be, matrix_view<T>(single.data(), {n, 130}), dense, w[0].packed);

  index_t wrong = 0;
  for (index_t i = 0; i < n; ++i) {
    index_t column = 0;
    for (const weight<B>& m : w) {
      for (index_t r = 0; r < m.rows; ++r, ++column) {
        const T want = m.product(x, i, r);
        wrong += all(i, column) == want ? 0 : 1;
        if (&m == &w[0]) wrong += single[static_cast<std::size_t>(i * 130 + r)] == want ? 0 : 1;
      }
    }
    for (; column < width; ++column) wrong += all(i, column) == untouched ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_SUITE_BEGIN("conformance");

TEST_CASE_TEMPLATE("few rows times weights in bf16 or floats give what many give", B,
                   backends::onednn<float>, backends::onednn<float, bf16>, backends::onednn<bf16>) {
  using backends::instruction_set;
  for (const instruction_set isa : test::instruction_sets()) {
    CAPTURE(backends::to_string(isa));
    B be(backends::onednn_options{.isa = isa});
    random_generator random(7);
    for (const index_t n : {1, 2, 3, 4, 5, 6, 7, 13, 43, 300}) {
      for (const index_t d_in : {1, 2, 33, 34, 160}) check_rows(be, random, n, d_in);
    }
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv
