// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A whole backend on the standard library alone: storage, nine primitives, and the conformance
// suite that says whether it is right. Start here, then make one function after the other fast.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <new>
#include <numbers>
#include <vector>

#include <gistkv/conformance/run.hpp>

using namespace gistkv;
using matrix = matrix_view<double>;  // Any of double, float, bf16 and f16 may be elements.
using in_matrix = matrix_view<const double>;
using in_vector = vector_view<const double>;
using in_rows = vector_view<const std::int32_t>;
using tensor = tensor_view<double, 3>;
using in_tensor = tensor_view<const double, 3>;

struct plain_loops : no_native {  // No fused path: attention is composed of the nine.
  static constexpr const char* name = "plain loops";
  using space = host_space;  // Our memory may be read and written here.
  using element = double;
  template <class T>
  static constexpr bool supports = std::same_as<T, double>;

  void* allocate(std::size_t n) { return ::operator new (n, std::align_val_t{64}); }
  void deallocate(void* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
  void upload(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void download(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void copy(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void synchronize() {}

  struct packed_weight {  // A constant matrix in the layout we like: here plain floats.
    index_t n_rows, n_cols;
    std::vector<float> values = std::vector<float>(static_cast<std::size_t>(n_rows * n_cols));
    index_t rows() const { return n_rows; }
    index_t cols() const { return n_cols; }
  };
  packed_weight pack(const host_matrix& m) {
    packed_weight w{m.rows, m.cols};
    for (index_t r = 0; r < m.rows; ++r) dequantize_row(m, r, w.values.data() + r * m.cols);
    return w;
  }

  static void each(matrix o, auto&& f) {  // o(i, j) = f(i, j)
    for (index_t i = 0; i < o.extent(0); ++i)
      for (index_t j = 0; j < o.extent(1); ++j) o(i, j) = f(i, j);
  }
  static double sum(index_t n, auto&& term) {
    double total = 0;
    for (index_t k = 0; k < n; ++k) total += term(k);
    return total;
  }

  // The primitives. Formulas, shapes and edge cases stand in ops/, which has checked the arguments.
  void linear(matrix o, in_matrix x, const packed_weight& w) {
    each(o, [&](index_t i, index_t j) {
      const float* row = w.values.data() + j * w.n_cols;
      return sum(w.n_cols, [&](index_t k) { return x(i, k) * row[k]; });
    });
  }
  void matmul(tensor o, in_tensor a, in_tensor b, const matmul_options& with) {
    for (index_t h = 0; h < o.extent(0); ++h)
      each(o.at(h), [&](index_t i, index_t j) {
        auto right = [&](index_t k) { return with.transpose_b ? b(h, j, k) : b(h, k, j); };
        const double ab = sum(a.extent(2), [&](index_t k) { return a(h, i, k) * right(k); });
        return with.alpha * ab + (with.accumulate ? o(h, i, j) : 0);
      });
  }
  void norm(matrix o, in_matrix x, in_vector weight, in_vector bias, const norm_options& with) {
    const auto mean = [n = x.extent(1)](auto&& term) { return sum(n, term) / double(n); };
    for (index_t i = 0; i < x.extent(0); ++i) {
      const bool layer = with.kind == norm_kind::layer;
      const double center = layer ? mean([&](index_t j) { return x(i, j); }) : 0;
      const double var = mean([&](index_t j) { return std::pow(x(i, j) - center, 2); });
      each(o.rows(i, 1), [&](index_t, index_t j) {
        const double y = (x(i, j) - center) / std::sqrt(var + with.eps) * weight(j);
        return bias.empty() ? y : y + bias(j);
      });
    }
  }
  void rope(tensor x, in_rows positions, vector_view<const float> f, const rope_options& with) {
    const index_t half = x.extent(2) / 2;
    for (index_t i = 0; i < x.extent(0); ++i)
      each(x.at(i).slice(1, 0, half), [&](index_t h, index_t j) {
        const double angle = positions(i) * double{f(j)}, a = x(i, h, j), b = x(i, h, j + half);
        const double c = with.magnitude * std::cos(angle), s = with.magnitude * std::sin(angle);
        x(i, h, j + half) = b * c + a * s;
        return a * c - b * s;
      });
  }
  void activation(matrix o, in_matrix gate, in_matrix up, activation_kind kind) {
    each(o, [&](index_t i, index_t j) {
      const double x = gate(i, j), factor = up.empty() ? 1 : up(i, j);
      if (x == -INFINITY) return 0.0;  // The limit; the formulas would give NaN.
      if (kind == activation_kind::silu) return factor * x / (1 + std::exp(-x));
      if (kind == activation_kind::gelu) return factor * x * std::erfc(-x * std::sqrt(0.5)) / 2;
      return factor * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x))) / 2;
    });
  }
  void add(matrix o, in_matrix a, in_matrix b) {
    each(o, [&](index_t i, index_t j) { return a(i, j) + b(i, j); });
  }
  void masked_softmax(tensor s, const AttentionMask auto& mask, const softmax_options& with,
                      matrix lse) {
    for (index_t h = 0; h < s.extent(0); ++h)
      for (index_t i = 0; i < s.extent(1); ++i) {
        double top = -INFINITY;
        for (index_t j = 0; j < s.extent(2); ++j)
          if (mask(i, j)) top = std::max(top, with.scale * s(h, i, j));
        auto e = [&](index_t j) {
          return mask(i, j) ? std::exp(with.scale * s(h, i, j) - top) : 0;
        };
        const double total = sum(s.extent(2), e);  // 0 if nothing is seen; then lse is -inf.
        if (!lse.empty()) lse(h, i) = top + std::log(total);
        each(s.at(h).rows(i, 1), [&](index_t, index_t j) { return total > 0 ? e(j) / total : 0; });
      }
  }
  void gather_rows(matrix o, in_matrix x, in_rows rows) {
    each(o, [&](index_t i, index_t j) { return x(rows(i), j); });
  }
  void scatter_rows(matrix o, in_matrix x, in_rows rows) {
    for (index_t i = 0; i < x.extent(0); ++i)
      if (rows(i) >= 0) each(o.rows(rows(i), 1), [&](index_t, index_t j) { return x(i, j); });
  }
};
static_assert(Backend<plain_loops>);  // A missing or misspelt function is an error here, by name.

int main() {
  plain_loops backend;
  conformance::report report;
  conformance::run(backend, report);
  std::cout << conformance::format(report);
  return report.passed() ? 0 : 1;
}
