// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/training_backend.hpp>

namespace gistkv {

/// Base of a backend in host memory: the tier `Trains` in plain loops, which a backend replaces
/// where it has better. The backend provides `for_rows(n, work, f)`, which calls f(i) for i < n on
/// its threads, each of about `work` multiply-adds. No result depends on the number of threads.
template <class Backend, class T>
class host_training {
 public:
  void accumulate_products(matrix_view<T> o, matrix_view<const T> a, matrix_view<const T> b,
                           double alpha) {
    constexpr index_t n_rows = 4;
    constexpr index_t n_columns = 64;
    const index_t m = o.extent(0);
    const index_t n = o.extent(1);
    const index_t k = a.extent(0);
    self().for_rows((m + n_rows - 1) / n_rows, n_rows * n * k, [&](index_t task) {
      const index_t first = task * n_rows;
      const index_t rows = std::min(n_rows, m - first);
      for (index_t column = 0; column < n; column += n_columns) {
        const index_t columns = std::min(n_columns, n - column);
        T sums[n_rows][n_columns] = {};
        const auto add = [&](auto to_row, auto to_column) {
          for (index_t t = 0; t < k; ++t) {
            const T* left = a.data() + t * a.stride(0) + first;
            const T* right = b.data() + t * b.stride(0) + column;
            for (index_t r = 0; r < to_row; ++r) {
              for (index_t c = 0; c < to_column; ++c) sums[r][c] += left[r] * right[c];
            }
          }
        };
        // Loops of constant length are vectorised.
        if (rows == n_rows && columns == n_columns) {
          add(std::integral_constant<index_t, n_rows>(),
              std::integral_constant<index_t, n_columns>());
        } else {
          add(rows, columns);
        }
        for (index_t r = 0; r < rows; ++r) {
          T* to = o.data() + (first + r) * o.stride(0) + column;
          for (index_t c = 0; c < columns; ++c) to[c] += static_cast<T>(alpha) * sums[r][c];
        }
      }
    });
  }

  void norm_backward(matrix_view<T> dx, vector_view<T> dw, matrix_view<const T> dy,
                     matrix_view<const T> x, vector_view<const T> weight,
                     const norm_options& options) {
    const index_t n = x.extent(0);
    const index_t d = x.extent(1);
    std::vector<T> statistics(static_cast<std::size_t>(2 * n));
    T* means = statistics.data();
    T* factors = means + n;
    self().for_rows(n, 6 * d, [&](index_t i) {
      const T* from = x.data() + i * x.stride(0);
      const T* g = dy.data() + i * dy.stride(0);
      T* to = dx.data() + i * dx.stride(0);
      const bool centred = options.kind == norm_kind::layer;
      T mean = 0;
      if (centred) {
        for (index_t j = 0; j < d; ++j) mean += from[j];
        mean /= static_cast<T>(d);
      }
      T squares = 0;
      for (index_t j = 0; j < d; ++j) squares += (from[j] - mean) * (from[j] - mean);
      const T factor = T(1) / std::sqrt(squares / static_cast<T>(d) + static_cast<T>(options.eps));
      T along = 0;  // Mean of dy w times the normed x.
      T shift = 0;  // Mean of dy w.
      for (index_t j = 0; j < d; ++j) {
        const T h = g[j] * weight(j);
        along += h * (from[j] - mean);
        shift += h;
      }
      along *= factor * factor / static_cast<T>(d);
      shift = centred ? shift / static_cast<T>(d) : T(0);
      for (index_t j = 0; j < d; ++j) {
        to[j] += factor * (g[j] * weight(j) - shift - (from[j] - mean) * along);
      }
      means[i] = mean;
      factors[i] = factor;
    });
    if (dw.empty()) return;
    constexpr index_t n_columns = 64;
    self().for_rows((d + n_columns - 1) / n_columns, 2 * n * n_columns, [&](index_t task) {
      const index_t first = task * n_columns;
      for (index_t i = 0; i < n; ++i) {
        const T* from = x.data() + i * x.stride(0);
        const T* g = dy.data() + i * dy.stride(0);
        for (index_t j = first; j < std::min(d, first + n_columns); ++j) {
          dw(j) += g[j] * (from[j] - means[i]) * factors[i];
        }
      }
    });
  }

  void activation_backward(matrix_view<T> d_gate, matrix_view<T> d_up, matrix_view<const T> dy,
                           matrix_view<const T> gate, matrix_view<const T> up,
                           activation_kind kind) {
    const index_t d = dy.extent(1);
    self().for_rows(dy.extent(0), 30 * d, [&](index_t i) {
      const T* g = dy.data() + i * dy.stride(0);
      const T* x = gate.data() + i * gate.stride(0);
      const T* factor = up.empty() ? nullptr : up.data() + i * up.stride(0);
      T* to_gate = d_gate.data() + i * d_gate.stride(0);
      T* to_up = up.empty() ? nullptr : d_up.data() + i * d_up.stride(0);
      for (index_t j = 0; j < d; ++j) {
        const value_and_slope a = activated(x[j], kind);
        const T h = g[j];
        to_gate[j] = h * a.slope * (factor == nullptr ? T(1) : factor[j]);
        if (to_up != nullptr) to_up[j] = h * a.value;
      }
    });
  }

  void softmax_backward(tensor_view<T, 3> d, tensor_view<const T, 3> p, double alpha) {
    const index_t n = d.extent(2);
    self().for_rows(d.extent(0) * d.extent(1), 4 * n, [&](index_t r) {
      T* to = d.data() + d.offset(r / d.extent(1), r % d.extent(1), 0);
      const T* weights = p.data() + p.offset(r / d.extent(1), r % d.extent(1), 0);
      T mean = 0;
      for (index_t j = 0; j < n; ++j) mean += weights[j] * to[j];
      for (index_t j = 0; j < n; ++j) {
        to[j] = static_cast<T>(alpha) * weights[j] * (to[j] - mean);
      }
    });
  }

  void cross_entropy(matrix_view<T> logits, vector_view<T> losses,
                     vector_view<const std::int32_t> targets, vector_view<const T> weights,
                     matrix_view<const T> teacher, double mix) {
    const index_t n = logits.extent(1);
    self().for_rows(logits.extent(0), 40 * n, [&](index_t i) {
      T* x = logits.data() + i * logits.stride(0);
      const T* taught = teacher.empty() ? nullptr : teacher.data() + i * teacher.stride(0);
      cross_entropy_row(x, losses(i), n, targets(i), weights(i), taught, static_cast<T>(mix));
    });
  }

  void scatter_add_rows(matrix_view<T> o, matrix_view<const T> x,
                        vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {  // Rows may repeat: one thread.
      if (rows(i) < 0) continue;
      T* to = o.data() + rows(i) * o.stride(0);
      const T* from = x.data() + i * x.stride(0);
      for (index_t j = 0; j < x.extent(1); ++j) to[j] += from[j];
    }
  }

  void dropout(matrix_view<T> o, matrix_view<const T> x, const dropout_options& options) {
    const index_t d = o.extent(1);
    const double keep = 1.0 - options.probability;
    const auto least = static_cast<std::uint32_t>(
        std::min(options.probability * 0x1p32, static_cast<double>(0xffffffffU)));
    self().for_rows(o.extent(0), 8 * d, [&](index_t i) {
      T* to = o.data() + i * o.stride(0);
      const T* from = x.data() + i * x.stride(0);
      for (index_t j = 0; j < d; ++j) {
        const auto number = static_cast<std::uint64_t>(i * d + j);
        const auto drawn = static_cast<std::uint32_t>(splitmix64(options.seed + number) >> 32);
        to[j] = drawn < least ? T(0) : from[j] * static_cast<T>(1.0 / keep);
      }
    });
  }

  /// In double, in one order.
  double squared_norm(vector_view<const T> x) {
    constexpr index_t piece = 1 << 16;
    const index_t n_pieces = (x.extent(0) + piece - 1) / piece;
    std::vector<double> sums(static_cast<std::size_t>(n_pieces), 0.0);
    self().for_rows(n_pieces, piece, [&](index_t p) {
      double sum = 0;
      for (index_t i = p * piece; i < std::min(x.extent(0), (p + 1) * piece); ++i) {
        sum += static_cast<double>(x.data()[i]) * static_cast<double>(x.data()[i]);
      }
      sums[static_cast<std::size_t>(p)] = sum;
    });
    double total = 0;
    for (const double s : sums) total += s;
    return total;
  }

  void adamw(vector_view<T> p, vector_view<const T> gradient, vector_view<T> first,
             vector_view<T> second, const adamw_options& o) {
    const auto step = static_cast<double>(o.step);
    const auto size = static_cast<T>(o.rate / (1.0 - std::pow(o.beta1, step)));
    const auto unbias = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(o.beta2, step)));
    const auto keep = static_cast<T>(1.0 - o.rate * o.decay);
    const auto scale = static_cast<T>(o.gradient_scale);
    const auto b1 = static_cast<T>(o.beta1);
    const auto b2 = static_cast<T>(o.beta2);
    const auto c1 = static_cast<T>(1.0 - o.beta1);
    const auto c2 = static_cast<T>(1.0 - o.beta2);
    const auto eps = static_cast<T>(o.eps);
    constexpr index_t piece = 1 << 14;
    self().for_rows((p.extent(0) + piece - 1) / piece, 20 * piece, [&](index_t t) {
      for (index_t i = t * piece; i < std::min(p.extent(0), (t + 1) * piece); ++i) {
        const T g = scale * gradient.data()[i];
        T& m = first.data()[i];
        T& v = second.data()[i];
        m = b1 * m + c1 * g;
        v = b2 * v + c2 * g * g;
        p.data()[i] = keep * p.data()[i] - size * m / (std::sqrt(v) * unbias + eps);
      }
    });
  }

 protected:
  static void cross_entropy_row(T* x, T& loss, index_t n, std::int32_t target, T weight,
                                const T* teacher, T mix) {
    T top = -std::numeric_limits<T>::infinity();
    for (index_t j = 0; j < n; ++j) top = std::max(top, x[j]);
    const T at_target = x[target] - top;
    // A single sum over a vocabulary would lose four digits of a float.
    constexpr index_t n_sums = 64;
    T sums[n_sums] = {};
    T taught = 0;  // Sum of p log p - p (x - top) over the teacher's p.
    for (index_t j = 0; j < n; ++j) {
      const T y = x[j] - top;
      if (teacher != nullptr && teacher[j] > T(0)) {
        taught += teacher[j] * (std::log(teacher[j]) - y);
      }
      x[j] = std::exp(y);
      sums[j % n_sums] += x[j];
    }
    T sum = 0;
    for (const T s : sums) sum += s;
    const T lse = std::log(sum);
    loss = weight * (lse - at_target);
    if (teacher != nullptr) loss = (T(1) - mix) * loss + mix * weight * (taught + lse);
    const T factor = weight / sum;
    for (index_t j = 0; j < n; ++j) x[j] *= factor;
    if (teacher != nullptr) {
      for (index_t j = 0; j < n; ++j) x[j] -= mix * weight * teacher[j];
      x[target] -= (T(1) - mix) * weight;
    } else {
      x[target] -= weight;
    }
  }

 private:
  Backend& self() { return static_cast<Backend&>(*this); }

  struct value_and_slope {
    T value;
    T slope;
  };
  static value_and_slope activated(T x, activation_kind kind) {
    switch (kind) {
      case activation_kind::silu: {
        const T s = T(1) / (T(1) + std::exp(-x));
        return {x * s, s * (T(1) + x * (T(1) - s))};
      }
      case activation_kind::gelu: {
        const T half = std::erfc(-x * static_cast<T>(std::numbers::sqrt2 / 2)) / T(2);
        const T density = std::exp(-x * x / T(2)) *
                          static_cast<T>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
        return {x * half, half + x * density};
      }
      case activation_kind::gelu_tanh:
        break;
    }
    constexpr T c = static_cast<T>(std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
    constexpr T cubic = static_cast<T>(0.044715);
    const T t = std::tanh(c * (x + cubic * x * x * x));
    const T inner = c * (T(1) + T(3) * cubic * x * x);
    return {x * (T(1) + t) / T(2), (T(1) + t) / T(2) + x * (T(1) - t * t) * inner / T(2)};
  }
};

}  // namespace gistkv
