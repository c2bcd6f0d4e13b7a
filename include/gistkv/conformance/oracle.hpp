// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include <gistkv/conformance/cases.hpp>
#include <gistkv/conformance/tolerance.hpp>
#include <gistkv/core/attention_mask.hpp>
#include <gistkv/core/op_options.hpp>

/// Expected values: the formulas of ops/ as plain loops in double over row-major vectors, with no
/// code of any backend. Beside each value stands the scale of its rounding error (tolerance.hpp).

namespace gistkv::conformance::oracle {

/// Row-major element access with signed indices.
class grid {
 public:
  grid(std::span<const double> values, index_t columns) : values_(values), columns_(columns) {}
  double operator()(index_t i, index_t j) const {
    return values_[static_cast<std::size_t>(i * columns_ + j)];
  }

 private:
  std::span<const double> values_;
  index_t columns_;
};

inline double at(std::span<const double> values, index_t i) {
  return values[static_cast<std::size_t>(i)];
}

/// x [n, d_in], w [d_out, d_in], bias [d_out] or empty. Scale: the sum of magnitudes.
inline expected linear(const linear_case& c, std::span<const double> x, std::span<const double> w,
                       std::span<const double> bias) {
  const grid left(x, c.d_in);
  const grid right(w, c.d_in);
  expected want;
  for (index_t i = 0; i < c.n; ++i) {
    for (index_t j = 0; j < c.d_out; ++j) {
      double sum = bias.empty() ? 0.0 : at(bias, j);
      double size = std::abs(sum);
      for (index_t k = 0; k < c.d_in; ++k) {
        sum += left(i, k) * right(j, k);
        size += std::abs(left(i, k) * right(j, k));
      }
      want.push(sum, size);
    }
  }
  return want;
}

/// a [batch, m, k]; b [batch, k, n], or [batch, n, k] transposed; o [batch, m, n] before the call.
inline expected matmul(const matmul_case& c, std::span<const double> a, std::span<const double> b,
                       std::span<const double> o) {
  const grid left(a, c.k);
  expected want;
  for (index_t h = 0; h < c.batch; ++h) {
    for (index_t i = 0; i < c.m; ++i) {
      for (index_t j = 0; j < c.n; ++j) {
        double sum = 0.0;
        double size = 0.0;
        for (index_t k = 0; k < c.k; ++k) {
          const double right = c.options.transpose_b ? at(b, (h * c.n + j) * c.k + k)
                                                     : at(b, (h * c.k + k) * c.n + j);
          sum += left(h * c.m + i, k) * right;
          size += std::abs(left(h * c.m + i, k) * right);
        }
        sum *= c.options.alpha;
        size *= std::abs(c.options.alpha);
        if (c.options.accumulate) {
          sum += at(o, (h * c.m + i) * c.n + j);
          size += std::abs(at(o, (h * c.m + i) * c.n + j));
        }
        want.push(sum, size);
      }
    }
  }
  return want;
}

/// x [n, d], weight [d], bias [d] or empty. Scale: x, and the magnitudes that its mean is made of,
/// as normalised.
inline expected norm(const norm_case& c, double eps, std::span<const double> x,
                     std::span<const double> weight, std::span<const double> bias) {
  const grid rows(x, c.d);
  const double d = static_cast<double>(c.d);
  expected want;
  for (index_t i = 0; i < c.n; ++i) {
    double mean = 0.0;
    double size = 0.0;
    for (index_t j = 0; j < c.d && c.kind == norm_kind::layer; ++j) {
      mean += rows(i, j) / d;
      size += std::abs(rows(i, j)) / d;
    }
    double variance = 0.0;
    for (index_t j = 0; j < c.d; ++j) variance += (rows(i, j) - mean) * (rows(i, j) - mean) / d;
    const double root = std::sqrt(variance + eps);
    for (index_t j = 0; j < c.d; ++j) {
      const double added = bias.empty() ? 0.0 : at(bias, j);
      want.push((rows(i, j) - mean) / root * at(weight, j) + added,
                (std::abs(rows(i, j)) + size) / root * std::abs(at(weight, j)) + std::abs(added));
    }
  }
  return want;
}

/// x [n, n_heads, head_dim], positions [n], frequencies [head_dim / 2].
inline expected rope(const rope_case& c, std::span<const double> x,
                     std::span<const std::int32_t> positions, std::span<const float> frequencies) {
  const index_t half = c.head_dim / 2;
  expected want;
  for (index_t i = 0; i < c.n; ++i) {
    for (index_t h = 0; h < c.n_heads; ++h) {
      const std::span<const double> head =
          x.subspan(static_cast<std::size_t>((i * c.n_heads + h) * c.head_dim),
                    static_cast<std::size_t>(c.head_dim));
      for (index_t j = 0; j < c.head_dim; ++j) {
        const double angle = static_cast<double>(positions[static_cast<std::size_t>(i)]) *
                             static_cast<double>(frequencies[static_cast<std::size_t>(j % half)]);
        const double own = at(head, j);
        const double other = at(head, j < half ? j + half : j - half);
        const double sign = j < half ? -1.0 : 1.0;
        want.push(c.magnitude * (own * std::cos(angle) + sign * other * std::sin(angle)),
                  std::abs(c.magnitude) * (std::abs(own) + std::abs(other)));
      }
    }
  }
  return want;
}

inline double activate(activation_kind kind, double x) {
  if (x == -std::numeric_limits<double>::infinity()) return 0.0;  // The limit, of all three.
  switch (kind) {
    case activation_kind::silu:
      return x / (1.0 + std::exp(-x));
    case activation_kind::gelu:
      return x * std::erfc(-x / std::numbers::sqrt2) / 2.0;  // 1 + erf(y) = erfc(-y)
    case activation_kind::gelu_tanh: {
      const double u = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      return x * (1.0 + std::tanh(u)) / 2.0;
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// Scale: the result, or |x| up to 1 where forms like 1 + erf(x) cancel.
inline expected activation(const activation_case& c, std::span<const double> gate,
                           std::span<const double> up) {
  expected want;
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double act = activate(c.kind, gate[i]);
    const double factor = c.gated ? up[i] : 1.0;
    want.push(act * factor,
              std::max(std::abs(act), std::min(std::abs(gate[i]), 1.0)) * std::abs(factor));
  }
  return want;
}

inline expected add(std::span<const double> a, std::span<const double> b) {
  expected want;
  for (std::size_t i = 0; i < a.size(); ++i) {
    want.push(a[i] + b[i], std::abs(a[i]) + std::abs(b[i]));
  }
  return want;
}

/// Softmax of scores(j) over the j < n that sees(j); returns probabilities (0 elsewhere) and lse.
template <class Scores, class Sees>
std::pair<std::vector<double>, double> softmax_row(index_t n, const Scores& scores,
                                                   const Sees& sees) {
  std::vector<double> p(static_cast<std::size_t>(n), 0.0);
  double top = -std::numeric_limits<double>::infinity();
  for (index_t j = 0; j < n; ++j) {
    if (sees(j)) top = std::max(top, scores(j));
  }
  double sum = 0.0;
  for (index_t j = 0; j < n; ++j) {
    if (sees(j)) sum += p[static_cast<std::size_t>(j)] = std::exp(scores(j) - top);
  }
  for (double& x : p) x = sum > 0.0 ? x / sum : 0.0;
  return {std::move(p), sum > 0.0 ? top + std::log(sum) : top};
}

struct softmax_expected {
  expected s;
  expected lse;
};

/// s [n_heads, n_q, n_k]. An error of eps in the exponent is one of eps |exponent| in the result.
template <AttentionMask M>
softmax_expected masked_softmax(const softmax_case& c, std::span<const double> s, const M& mask) {
  const grid rows(s, c.n_k);
  softmax_expected want;
  for (index_t r = 0; r < c.n_heads * c.n_q; ++r) {
    const auto sees = [&](index_t j) { return mask(r % c.n_q, j); };
    const auto scores = [&](index_t j) { return c.scale * rows(r, j); };
    double largest = 0.0;
    for (index_t j = 0; j < c.n_k; ++j) {
      if (sees(j)) largest = std::max(largest, std::abs(scores(j)));
    }
    const auto [p, lse] = softmax_row(c.n_k, scores, sees);
    for (index_t j = 0; j < c.n_k; ++j) {
      want.s.push(at(p, j),
                  sees(j) ? at(p, j) * (1.0 + largest) + std::numeric_limits<double>::min() : 0.0);
    }
    want.lse.push(lse, std::isinf(lse) ? 0.0 : 1.0 + largest);
  }
  return want;
}

struct attention_expected {
  expected o;
  expected lse;
};

/// q [n_q, n_heads, head_dim]; k, v [n_kv_heads, n_keys, head_dim], all parts laid end to end;
/// sees(i, j) over those keys. Scale: what is averaged, times the exponent's own error.
template <class Sees>
attention_expected attention(const attention_case& c, double scale, std::span<const double> q,
                             std::span<const double> k, std::span<const double> v,
                             const Sees& sees) {
  const grid queries(q, c.head_dim);
  const grid keys(k, c.head_dim);
  const grid values(v, c.head_dim);
  attention_expected want;
  for (index_t i = 0; i < c.n_q; ++i) {
    for (index_t h = 0; h < c.n_heads; ++h) {
      const index_t first = h / (c.n_heads / c.n_kv_heads) * c.n_keys();
      std::vector<double> score;
      double largest = 0.0;
      for (index_t j = 0; j < c.n_keys(); ++j) {
        double sum = 0.0;
        double size = 0.0;
        for (index_t d = 0; d < c.head_dim; ++d) {
          const double term = scale * queries(i * c.n_heads + h, d) * keys(first + j, d);
          sum += term;
          size += std::abs(term);
        }
        score.push_back(sum);
        if (sees(i, j)) largest = std::max(largest, size);
      }
      const auto [p, lse] = softmax_row(
          c.n_keys(), [&](index_t j) { return at(score, j); },
          [&](index_t j) { return sees(i, j); });
      for (index_t d = 0; d < c.head_dim; ++d) {
        double sum = 0.0;
        double size = 0.0;
        for (index_t j = 0; j < c.n_keys(); ++j) {
          sum += at(p, j) * values(first + j, d);
          size += at(p, j) * std::abs(values(first + j, d));
        }
        want.o.push(sum, size * (1.0 + largest));
      }
      want.lse.push(lse, std::isinf(lse) ? 0.0 : 1.0 + largest);
    }
  }
  return want;
}

}  // namespace gistkv::conformance::oracle
