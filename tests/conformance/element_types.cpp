// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The suite on all four element types, on plain loops that carry every sum in double: what remains
// is the rounding of the stored elements, so a budget that half a unit exceeds is too small.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include <gistkv/conformance/run.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/dequantize.hpp>

namespace gistkv {
namespace {

class plain_loops : public no_native {
 public:
  static constexpr std::string_view name = "plain loops";
  using space = host_space;
  using element = float;
  template <class T>
  static constexpr bool supports = true;

  void* allocate(std::size_t n) { return ::operator new (n, std::align_val_t{64}); }
  void deallocate(void* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
  void upload(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void download(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void copy(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void synchronize() {}

  struct packed_weight {
    std::vector<float> values;
    index_t n_rows, n_columns;
    index_t rows() const { return n_rows; }
    index_t cols() const { return n_columns; }
  };
  packed_weight pack(const host_matrix& m) {
    packed_weight w{std::vector<float>(static_cast<std::size_t>(m.rows * m.cols)), m.rows, m.cols};
    for (index_t r = 0; r < m.rows; ++r) dequantize_row(m, r, w.values.data() + r * m.cols);
    return w;
  }

  template <class T>
  void linear(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    each(o, [&](index_t i, index_t j) {
      double sum = 0.0;
      const float* row = w.values.data() + j * w.n_columns;
      for (index_t k = 0; k < w.n_columns; ++k) sum += get(x(i, k)) * get(row[k]);
      return sum;
    });
  }
  template <class T>
  void matmul(tensor_view<T, 3> o, tensor_view<const T, 3> a, tensor_view<const T, 3> b,
              const matmul_options& options) {
    for (index_t h = 0; h < o.extent(0); ++h) {
      each(o.at(h), [&](index_t i, index_t j) {
        double sum = 0.0;
        for (index_t k = 0; k < a.extent(2); ++k) {
          sum += get(a(h, i, k)) * get(options.transpose_b ? b(h, j, k) : b(h, k, j));
        }
        return options.alpha * sum + (options.accumulate ? get(o(h, i, j)) : 0.0);
      });
    }
  }
  template <class T>
  void norm(matrix_view<T> o, matrix_view<const T> x, vector_view<const T> weight,
            vector_view<const T> bias, const norm_options& options) {
    const double d = static_cast<double>(x.extent(1));
    for (index_t i = 0; i < x.extent(0); ++i) {
      double mean = 0.0, variance = 0.0;
      for (index_t j = 0; j < x.extent(1); ++j) mean += get(x(i, j)) / d;
      if (options.kind == norm_kind::rms) mean = 0.0;
      for (index_t j = 0; j < x.extent(1); ++j) variance += std::pow(get(x(i, j)) - mean, 2.0) / d;
      each(o.rows(i, 1), [&](index_t, index_t j) {
        return (get(x(i, j)) - mean) / std::sqrt(variance + options.eps) * get(weight(j)) +
               (bias.empty() ? 0.0 : get(bias(j)));
      });
    }
  }
  template <class T>
  void rope(tensor_view<T, 3> x, vector_view<const std::int32_t> positions,
            vector_view<const float> frequencies, const rope_options& options) {
    const index_t half = x.extent(2) / 2;
    for (index_t i = 0; i < x.extent(0); ++i) {
      each(x.at(i).slice(1, 0, half), [&](index_t h, index_t j) {
        const double angle = positions(i) * get(frequencies(j)), m = options.magnitude;
        const double a = get(x(i, h, j)), b = get(x(i, h, j + half));
        put(x(i, h, j + half), m * (b * std::cos(angle) + a * std::sin(angle)));
        return m * (a * std::cos(angle) - b * std::sin(angle));
      });
    }
  }
  template <class T>
  void activation(matrix_view<T> o, matrix_view<const T> gate, matrix_view<const T> up,
                  activation_kind kind) {
    each(o, [&](index_t i, index_t j) {
      const double x = get(gate(i, j)), factor = up.empty() ? 1.0 : get(up(i, j));
      if (x == -std::numeric_limits<double>::infinity()) return 0.0;
      if (kind == activation_kind::silu) return factor * x / (1.0 + std::exp(-x));
      if (kind == activation_kind::gelu) return factor * x * std::erfc(-x * std::sqrt(0.5)) / 2.0;
      const double u = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      return factor * x * (1.0 + std::tanh(u)) / 2.0;
    });
  }
  template <class T>
  void add(matrix_view<T> o, matrix_view<const T> a, matrix_view<const T> b) {
    each(o, [&](index_t i, index_t j) { return get(a(i, j)) + get(b(i, j)); });
  }
  template <class T, AttentionMask M>
  void masked_softmax(tensor_view<T, 3> s, const M& mask, const softmax_options& options,
                      matrix_view<T> lse) {
    for (index_t h = 0; h < s.extent(0); ++h) {
      for (index_t i = 0; i < s.extent(1); ++i) {
        const auto score = [&](index_t j) { return options.scale * get(s(h, i, j)); };
        double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
        for (index_t j = 0; j < s.extent(2); ++j)
          if (mask(i, j)) top = std::max(top, score(j));
        for (index_t j = 0; j < s.extent(2); ++j)
          if (mask(i, j)) sum += std::exp(score(j) - top);
        if (!lse.empty()) put(lse(h, i), top + std::log(sum));  // -inf if nothing is seen.
        each(s.at(h).rows(i, 1),
             [&](index_t, index_t j) { return mask(i, j) ? std::exp(score(j) - top) / sum : 0.0; });
      }
    }
  }
  template <class T>
  void gather_rows(matrix_view<T> o, matrix_view<const T> x, vector_view<const std::int32_t> rows) {
    each(o, [&](index_t i, index_t j) { return get(x(rows(i), j)); });
  }
  template <class T>
  void scatter_rows(matrix_view<T> o, matrix_view<const T> x,
                    vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) < 0) continue;
      each(o.rows(rows(i), 1), [&](index_t, index_t j) { return get(x(i, j)); });
    }
  }

 private:
  template <class T>
  static double get(const T& x) {
    if constexpr (std::same_as<T, double>)
      return x;
    else
      return static_cast<float>(x);
  }
  template <class T>
  static void put(T& to, double x) {
    if constexpr (std::same_as<T, double>)
      to = x;
    else
      to = T(static_cast<float>(x));
  }
  template <class T, class F>
  static void each(matrix_view<T> o, F&& f) {  // o(i, j) = f(i, j)
    for (index_t i = 0; i < o.extent(0); ++i) {
      for (index_t j = 0; j < o.extent(1); ++j) put(o(i, j), f(i, j));
    }
  }
};
static_assert(Backend<plain_loops>);

TEST_CASE("plain loops conform on f64, f32, bf16 and f16") {
  plain_loops be;
  conformance::report report;
  conformance::run(be, report);
  CAPTURE(conformance::format(report));
  CHECK(report.passed());
  CHECK(report.n_skipped() == 0);
  for (const conformance::result& r : report.results()) {
    CAPTURE(to_string(r));
    CHECK(r.worst.ratio < 0.6);
  }
}

}  // namespace
}  // namespace gistkv
