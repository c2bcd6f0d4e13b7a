// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/training_backend.hpp>

/// The tier `Trains` as work of one warp on one row, or of one thread on one element; formulas
/// stand in ops/backward.hpp. Sums are carried in float, in an order that depends on shapes alone:
/// the same call gives the same bits. The same source runs on a device and in the emulation of the
/// tests; for the group W see attention_softmax.hpp.

namespace gistkv::backends::cuda_detail {

struct value_and_slope {
  float value;
  float slope;
};
GISTKV_HD inline value_and_slope activated(float x, activation_kind kind) {
  switch (kind) {
    case activation_kind::silu: {
      const float s = 1.0F / (1.0F + expf(-x));
      return {x * s, s * (1.0F + x * (1.0F - s))};
    }
    case activation_kind::gelu: {
      const float half = 0.5F * erfcf(-0.70710678118654752F * x);
      return {x * half, half + x * expf(-0.5F * x * x) * 0.39894228040143268F};
    }
    case activation_kind::gelu_tanh:
      break;
  }
  constexpr float c = 0.79788456080286536F;
  constexpr float cubic = 0.044715F;
  const float t = tanhf(c * (x + cubic * x * x * x));
  const float inner = c * (1.0F + 3.0F * cubic * x * x);
  return {0.5F * x * (1.0F + t), 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * inner};
}

/// Numbers of a step of AdamW that are the same for all elements.
struct adamw_step {
  float size, unbias, keep, scale, beta1, beta2, rest1, rest2, eps;

  explicit adamw_step(const adamw_options& o)
      : size(static_cast<float>(o.rate / (1.0 - std::pow(o.beta1, static_cast<double>(o.step))))),
        unbias(static_cast<float>(1.0 /
                                  std::sqrt(1.0 - std::pow(o.beta2, static_cast<double>(o.step))))),
        keep(static_cast<float>(1.0 - o.rate * o.decay)),
        scale(static_cast<float>(o.gradient_scale)),
        beta1(static_cast<float>(o.beta1)),
        beta2(static_cast<float>(o.beta2)),
        rest1(static_cast<float>(1.0 - o.beta1)),
        rest2(static_cast<float>(1.0 - o.beta2)),
        eps(static_cast<float>(o.eps)) {}

  GISTKV_HD void operator()(float& p, float gradient, float& m, float& v) const {
    const float g = scale * gradient;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = keep * p - size * m / (sqrtf(v) * unbias + eps);
  }
};

/// What dropout makes of element `number`.
struct dropout_rule {
  std::uint64_t seed;
  std::uint32_t least;  ///< Of the upper half of the hash, to stay.
  float factor;

  explicit dropout_rule(const dropout_options& o)
      : seed(o.seed),
        least(static_cast<std::uint32_t>(o.probability * 0x1p32 < static_cast<double>(0xffffffffU)
                                             ? o.probability * 0x1p32
                                             : 0xffffffffU)),
        factor(static_cast<float>(1.0 / (1.0 - o.probability))) {}

  GISTKV_HD float operator()(float x, std::uint64_t number) const {
    const auto drawn = static_cast<std::uint32_t>(splitmix64(seed + number) >> 32);
    return drawn < least ? 0.0F : x * factor;
  }
};

/// Sum over the lanes of a value that f(lane) gives, known to all of them.
template <class W, class F>
GISTKV_HD void warp_total(W& w, typename W::template registers<float, 1>& sum, F&& f) {
  w.each([&](int lane) { sum(lane, 0) = f(lane); });
  w.warp_sum(sum);
}

/// ops::norm_backward of one row, without the weight's derivative.
/// @param statistics  null, or where the row's mean and factor go
template <class T, class W>
GISTKV_HD void norm_backward_row(W& w, T* dx, const T* dy, const T* x, const T* weight,
                                 index_t weight_step, index_t d, bool centred, float eps,
                                 float* statistics) {
  typename W::template registers<float, 1> mean, squares, along, shift;
  const auto n = static_cast<float>(d);
  const auto f = [](T v) { return W::to_float(v); };
  warp_total(w, mean, [&](int lane) {
    float sum = 0.0F;
    for (index_t j = lane; centred && j < d; j += 32) sum += f(x[j]);
    return sum / n;
  });
  warp_total(w, squares, [&](int lane) {
    float sum = 0.0F;
    for (index_t j = lane; j < d; j += 32) {
      const float distance = f(x[j]) - mean(lane, 0);
      sum += distance * distance;
    }
    return sum;
  });
  warp_total(w, along, [&](int lane) {
    float sum = 0.0F;
    for (index_t j = lane; j < d; j += 32) {
      sum += f(dy[j]) * f(weight[j * weight_step]) * (f(x[j]) - mean(lane, 0));
    }
    return sum;
  });
  warp_total(w, shift, [&](int lane) {
    float sum = 0.0F;
    for (index_t j = lane; centred && j < d; j += 32) sum += f(dy[j]) * f(weight[j * weight_step]);
    return sum;
  });
  w.each([&](int lane) {
    const float factor = W::rsqrt(squares(lane, 0) / n + eps);
    const float projection = along(lane, 0) * factor * factor / n;
    for (index_t j = lane; j < d; j += 32) {
      const float h = f(dy[j]) * f(weight[j * weight_step]);
      const float slope =
          factor * (h - shift(lane, 0) / n - (f(x[j]) - mean(lane, 0)) * projection);
      W::store(dx + j, f(dx[j]) + slope);
    }
    if (statistics != nullptr && lane == 0) {
      statistics[0] = mean(lane, 0);
      statistics[1] = factor;
    }
  });
}

/// ops::softmax_backward of one row.
template <class T, class W>
GISTKV_HD void softmax_backward_row(W& w, T* d, const T* p, index_t n, float alpha) {
  typename W::template registers<float, 1> mean;
  warp_total(w, mean, [&](int lane) {
    float sum = 0.0F;
    for (index_t j = lane; j < n; j += 32) sum += W::to_float(p[j]) * W::to_float(d[j]);
    return sum;
  });
  w.each([&](int lane) {
    for (index_t j = lane; j < n; j += 32) {
      W::store(d + j, alpha * W::to_float(p[j]) * (W::to_float(d[j]) - mean(lane, 0)));
    }
  });
}

/// ops::cross_entropy of one row.
template <class T, class W>
GISTKV_HD void cross_entropy_row(W& w, T* x, float* loss, index_t n, std::int32_t target,
                                 float weight, const T* teacher, float mix) {
  typename W::template registers<float, 1> top, sum, taught, at_target;
  w.each([&](int lane) {
    top(lane, 0) = W::minus_infinity();
    at_target(lane, 0) = W::to_float(x[target]);
    for (index_t j = lane; j < n; j += 32) top(lane, 0) = greatest(top(lane, 0), W::to_float(x[j]));
  });
  w.warp_max(top);
  // Four sums a lane: fewer terms each, and loads that do not wait for one another.
  warp_total(w, sum, [&](int lane) {
    float part[4] = {};
    for (index_t j = lane; j < n; j += 128) {
      for (int i = 0; i < 4; ++i) {
        if (j + 32 * i < n) part[i] += expf(W::to_float(x[j + 32 * i]) - top(lane, 0));
      }
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
  });
  warp_total(w, taught, [&](int lane) {
    float total = 0.0F;  // Of q log q - q (x - top).
    for (index_t j = lane; teacher != nullptr && j < n; j += 32) {
      const float q = W::to_float(teacher[j]);
      if (q > 0.0F) total += q * (logf(q) - (W::to_float(x[j]) - top(lane, 0)));
    }
    return total;
  });
  w.each([&](int lane) {
    const float lse = logf(sum(lane, 0));
    const float factor = weight / sum(lane, 0);
    const float share = teacher == nullptr ? 0.0F : mix;
    if (lane == 0) {
      *loss = (1.0F - share) * weight * (lse - (at_target(lane, 0) - top(lane, 0))) +
              share * weight * (taught(lane, 0) + lse);
    }
    for (index_t j = lane; j < n; j += 32) {
      float slope = factor * expf(W::to_float(x[j]) - top(lane, 0));
      if (teacher != nullptr) slope -= share * weight * W::to_float(teacher[j]);
      if (j == target) slope -= (1.0F - share) * weight;
      W::store(x + j, slope);
    }
  });
}

/// Columns that a warp adds up at a time.
inline constexpr int scatter_columns = 64;

/// ops::scatter_add_rows, the columns from `column` on of the destination of row `i`, if `i` is the
/// first row that goes there: then all that do are added, in order.
template <class O, class T, class W>
GISTKV_HD void scatter_add_piece(W& w, O* o, index_t o_row, const T* x, index_t x_row,
                                 const std::int32_t* rows, index_t row_step, int n, index_t d,
                                 int i, index_t column) {
  const std::int32_t to = rows[i * row_step];
  if (to < 0) return;
  struct position {
    int row;
  };
  typename W::template registers<position, 1> first;
  w.each([&](int lane) {
    first(lane, 0).row = i;
    for (int j = lane; j < i; j += 32) {
      if (rows[j * row_step] == to) {
        first(lane, 0).row = j;
        break;
      }
    }
  });
  if (w.least_of(first, &position::row) < i) return;
  w.each([&](int lane) {
    constexpr int per_lane = scatter_columns / 32;
    float sum[per_lane] = {};
    for (int j = i; j < n; ++j) {
      if (rows[j * row_step] != to) continue;
      for (int c = 0; c < per_lane; ++c) {
        const index_t at = column + lane + 32 * c;
        if (at < d) sum[c] += W::to_float(x[j * x_row + at]);
      }
    }
    for (int c = 0; c < per_lane; ++c) {
      const index_t at = column + lane + 32 * c;
      if (at < d) W::store(o + to * o_row + at, W::to_float(o[to * o_row + at]) + sum[c]);
    }
  });
}

}  // namespace gistkv::backends::cuda_detail
