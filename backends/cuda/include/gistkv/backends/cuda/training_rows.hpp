// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
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

/// Elements of T in 16 bytes.
template <class T>
inline constexpr int vector_width = 16 / static_cast<int>(sizeof(T));

template <class T>
GISTKV_HD bool begins_vector(const T* at) {
  return reinterpret_cast<std::uintptr_t>(at) % 16 == 0;
}
/// Element e, which the compiler knows, of 16 bytes.
template <class T, class W>
GISTKV_HD float element_of(const std::uint32_t (&words)[4], int e) {
  if constexpr (std::same_as<T, float>) {
    return std::bit_cast<float>(words[e]);
  } else {
    T x;
    x.bits = static_cast<std::uint16_t>(words[e / 2] >> (16 * (e % 2)));
    return W::to_float(x);
  }
}

/// Some consecutive elements of a row in registers, at most a vector: in one load and one store
/// where they are aligned, else one by one.
template <class T>
struct row_piece {
  static constexpr int width = vector_width<T>;
  float x[static_cast<std::size_t>(width)];

  template <class W>
  GISTKV_HD void load(W&, const T* from, int count, bool aligned) {
    if (aligned && count == width) {
      std::uint32_t words[4];
      W::load_vector(from, words);
      for (int e = 0; e < width; ++e) x[e] = element_of<T, W>(words, e);
    } else {
      for (int e = 0; e < width; ++e) {
        if (e < count) x[e] = W::to_float(from[e]);
      }
    }
  }
  template <class W>
  GISTKV_HD void store(W&, T* to, int count, bool aligned) const {
    if (aligned && count == width) {
      std::uint32_t words[4];
      for (int i = 0; i < 4; ++i) {
        if constexpr (std::same_as<T, float>) {
          words[i] = std::bit_cast<std::uint32_t>(x[i]);
        } else {
          words[i] = W::template pack<T>(x[2 * i], x[2 * i + 1]);
        }
      }
      W::store_vector(to, words);
    } else {
      for (int e = 0; e < width; ++e) {
        if (e < count) W::store(to + e, x[e]);
      }
    }
  }
};

/// ops::activation_backward of one row; results may take the place of arguments.
/// @param up  null, and d_up too, where there is no factor
template <class T, class W>
GISTKV_HD void activation_backward_row(W& w, T* d_gate, T* d_up, const T* dy, const T* gate,
                                       const T* up, index_t d, activation_kind kind) {
  constexpr int width = vector_width<T>;
  const bool aligned = begins_vector(d_gate) && begins_vector(dy) && begins_vector(gate) &&
                       begins_vector(d_up) && begins_vector(up);
  w.each([&](int lane) {
    for (index_t j = index_t{lane} * width; j < d; j += 32 * width) {
      const auto count = static_cast<int>(least<index_t>(width, d - j));
      row_piece<T> h, x, factor;
      h.load(w, dy + j, count, aligned);
      x.load(w, gate + j, count, aligned);
      if (up != nullptr) factor.load(w, up + j, count, aligned);
      for (int e = 0; e < width; ++e) {
        if (e >= count) continue;
        const value_and_slope a = activated(x.x[e], kind);
        x.x[e] = h.x[e] * a.slope * (up != nullptr ? factor.x[e] : 1.0F);
        factor.x[e] = h.x[e] * a.value;
      }
      x.store(w, d_gate + j, count, aligned);
      if (up != nullptr) factor.store(w, d_up + j, count, aligned);
    }
  });
}

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

/// Warps of a block that has a row of logits: so many that the rows under way stay in a GPU's L2
/// cache, from the pass that adds up to the one that writes.
inline constexpr int loss_warps = 16;
/// Of some of a row's logits x, with the teacher's q: the greatest, the sum of e^(x - greatest),
/// and the sums of q and of q (log q - (x - x[target])).
struct loss_sums {
  float top, sum, share, taught;
};
inline constexpr std::uint32_t loss_shared_bytes = loss_warps * sizeof(loss_sums);

/// ops::cross_entropy of one row, by a block of `n_warps` warps.
template <class T, class W>
GISTKV_HD void cross_entropy_row(W& w, int n_warps, T* x, float* loss, index_t n,
                                 std::int32_t target, float weight, const T* teacher, float mix) {
  constexpr int width = vector_width<T>;
  const bool aligned = begins_vector(x) && begins_vector(teacher);
  const bool with_teacher = teacher != nullptr;
  const float at_target = W::to_float(x[target]);
  const auto first = [&](int lane) { return index_t{w.index() * 32 + lane} * width; };
  const index_t step = index_t{n_warps} * 32 * width;

  typename W::template registers<float, 1> top, sum, share, taught, greatest_of_warp;
  w.each([&](int lane) {
    loss_sums own{W::minus_infinity(), 0.0F, 0.0F, 0.0F};
    for (index_t j = first(lane); j < n; j += step) {
      const auto count = static_cast<int>(least<index_t>(width, n - j));
      row_piece<T> logits, q;
      logits.load(w, x + j, count, aligned);
      if (with_teacher) q.load(w, teacher + j, count, aligned);
      float best = own.top;
      for (int e = 0; e < width; ++e) {
        if (e < count) best = greatest(best, logits.x[e]);
      }
      if (best > own.top) own.sum *= expf(own.top - best);
      own.top = best;
      for (int e = 0; e < width; ++e) {
        // Of infinities alone nothing is added: -inf - -inf is no number.
        if (e < count && logits.x[e] > W::minus_infinity()) own.sum += expf(logits.x[e] - best);
        if (with_teacher && e < count && q.x[e] > 0.0F) {
          own.share += q.x[e];
          own.taught += q.x[e] * (logf(q.x[e]) - (logits.x[e] - at_target));
        }
      }
    }
    top(lane, 0) = greatest_of_warp(lane, 0) = own.top;
    sum(lane, 0) = own.sum;
    share(lane, 0) = own.share;
    taught(lane, 0) = own.taught;
  });
  w.warp_max(greatest_of_warp);
  w.each([&](int lane) {
    if (top(lane, 0) > W::minus_infinity()) {
      sum(lane, 0) *= expf(top(lane, 0) - greatest_of_warp(lane, 0));
    }
  });
  w.warp_sum(sum);
  w.warp_sum(share);
  w.warp_sum(taught);
  auto* of_warps = w.template shared<loss_sums>(0);
  w.each([&](int lane) {
    if (lane == 0) {
      of_warps[w.index()] = {greatest_of_warp(lane, 0), sum(lane, 0), share(lane, 0),
                             taught(lane, 0)};
    }
  });
  w.sync_block();  // Also behind all reading of x[target].
  w.each([&](int lane) {
    loss_sums all{W::minus_infinity(), 0.0F, 0.0F, 0.0F};
    for (int i = 0; i < n_warps; ++i) all.top = greatest(all.top, of_warps[i].top);
    for (int i = 0; i < n_warps; ++i) {
      const loss_sums& part = of_warps[i];
      if (part.top > W::minus_infinity()) all.sum += part.sum * expf(part.top - all.top);
      all.share += part.share;
      all.taught += part.taught;
    }
    const float lse = logf(all.sum);  // Less the greatest.
    const float factor = weight / all.sum;
    const float of_teacher = with_teacher ? mix : 0.0F;
    if (w.index() == 0 && lane == 0) {
      const float distance = all.top - at_target;
      *loss = (1.0F - of_teacher) * weight * (lse + distance) +
              of_teacher * weight * (all.taught + all.share * distance + lse);
    }
    for (index_t j = first(lane); j < n; j += step) {
      const auto count = static_cast<int>(least<index_t>(width, n - j));
      row_piece<T> logits, q;
      logits.load(w, x + j, count, aligned);
      if (with_teacher) q.load(w, teacher + j, count, aligned);
      for (int e = 0; e < width; ++e) {
        if (e >= count) continue;
        float slope = factor * expf(logits.x[e] - all.top);
        if (with_teacher) slope -= of_teacher * weight * q.x[e];
        if (j + e == target) slope -= (1.0F - of_teacher) * weight;
        logits.x[e] = slope;
      }
      logits.store(w, x + j, count, aligned);
    }
  });
}

/// Columns that a warp adds up at a time.
inline constexpr int scatter_columns = 64;

/// ops::scatter_add_rows, the columns from `column` on of the destination of row `i`, if `i` is the
/// first row that goes there: then all that do are added, in order. The warp looks for them 32 at a
/// time.
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
  constexpr int per_lane = scatter_columns / 32;
  typename W::template registers<float, per_lane> sum;
  w.each([&](int lane) {
    for (int c = 0; c < per_lane; ++c) sum(lane, c) = 0.0F;
  });
  for (int begin = i; begin < n; begin += 32) {
    typename W::template registers<position, 1> found;
    w.each([&](int lane) {
      const int j = begin + lane;
      found(lane, 0).row = j < n && rows[j * row_step] == to ? j : n;
    });
    for (int j = w.least_of(found, &position::row); j < n; j = w.least_of(found, &position::row)) {
      w.each([&](int lane) {
        if (found(lane, 0).row == j) found(lane, 0).row = n;
        for (int c = 0; c < per_lane; ++c) {
          const index_t at = column + lane + 32 * c;
          if (at < d) sum(lane, c) += W::to_float(x[j * x_row + at]);
        }
      });
    }
  }
  w.each([&](int lane) {
    for (int c = 0; c < per_lane; ++c) {
      const index_t at = column + lane + 32 * c;
      if (at < d) W::store(o + to * o_row + at, W::to_float(o[to * o_row + at]) + sum(lane, c));
    }
  });
}

}  // namespace gistkv::backends::cuda_detail
