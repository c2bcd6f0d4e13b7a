// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/backends/cuda/append_rows.hpp>
#include <gistkv/core/op_options.hpp>

/// Norm, products with constant weights and what follows on them, for at most 16 rows: a decode
/// step, or the gists that close a sentence. Reading the weights is the work; everything else rides
/// along in the same launch.
///
/// A block of threads makes sixteen columns, eight and their eight partners: dimensions j and
/// j + head_dim / 2 of a head, which rotate together, or gate and up. Its warps share the columns
/// of x; a lane reads 16 bytes of a weight's row at a time, and what order the dimensions have in
/// the products is free, as long as x is read in the same.

namespace gistkv::backends::cuda_detail {

inline constexpr int few_rows_most = 16;
inline constexpr int few_rows_warps = 8;
inline constexpr int few_rows_columns = 8;  ///< Of a block of threads, beside their partners.

/// Rows of x and how they are normed.
template <class T>
struct normed_rows {
  const T* x = nullptr;
  index_t stride = 0;
  const T* weight = nullptr;
  index_t weight_step = 0;
  std::int32_t n = 0;
  std::int32_t d = 0;  ///< A multiple of 32.
  float eps = 0.0F;
  bool centred = false;
};

/// Rows of a weight, aligned to 16 bytes, and the bias of each, or none.
template <class T>
struct weight_rows {
  const T* w = nullptr;
  index_t stride = 0;
  const T* bias = nullptr;
  index_t bias_step = 0;

  GISTKV_HD weight_rows from(index_t row) const {
    return {w + row * stride, stride, bias == nullptr ? nullptr : bias + row * bias_step,
            bias_step};
  }
};

/// Elements from one row of normed x to the next in shared memory. Rows are 16 bytes longer than
/// they need be: what eight of them have at one place lies in different banks.
GISTKV_HD constexpr int few_rows_pitch(int d) { return d + 8; }
GISTKV_HD constexpr std::uint32_t few_rows_x_bytes(int n, int d) {
  return static_cast<std::uint32_t>(n * few_rows_pitch(d) * 2);
}
/// Normed x, and of each warp its part of the sums.
GISTKV_HD constexpr std::uint32_t few_rows_shared_bytes(int n, int d) {
  return few_rows_x_bytes(n, d) + few_rows_warps * few_rows_most * 16 * 4 + 16;
}
/// The most that a launch asks for of the `available` bytes that a block of threads can have: two
/// blocks a processor of sm_90, one of the others.
GISTKV_HD constexpr std::uint32_t few_rows_most_shared(std::uint32_t available) {
  return available < 112 * 1024 ? available : 112 * 1024;
}

/// norm(x) in T, in shared memory; a warp takes rows one by one.
template <class T, class W>
GISTKV_HD void norm_to_shared(W& w, const normed_rows<T>& x) {
  T* to = w.template shared<T>(0);
  for (int r = w.index(); r < x.n; r += few_rows_warps) {
    const T* from = x.x + r * x.stride;
    typename W::template registers<float, 1> sum, squares;
    w.each([&](int lane) {
      sum(lane, 0) = 0.0F;
      for (int i = lane % 32; x.centred && i < x.d; i += 32) sum(lane, 0) += W::to_float(from[i]);
    });
    w.warp_sum(sum);
    w.each([&](int lane) {
      const float mean = sum(lane, 0) / static_cast<float>(x.d);
      squares(lane, 0) = 0.0F;
      for (int i = lane % 32; i < x.d; i += 32) {
        const float distance = W::to_float(from[i]) - mean;
        squares(lane, 0) += distance * distance;
      }
    });
    w.warp_sum(squares);
    w.each([&](int lane) {
      const float mean = sum(lane, 0) / static_cast<float>(x.d);
      const float factor = W::rsqrt(squares(lane, 0) / static_cast<float>(x.d) + x.eps);
      for (int i = lane % 32; i < x.d; i += 32) {
        W::store(to + r * few_rows_pitch(x.d) + i,
                 (W::to_float(from[i]) - mean) * factor * W::to_float(x.weight[i * x.weight_step]));
      }
    });
  }
  w.sync_block();
}

/// f(row, column, a, b) for all rows and eight columns with a = x . first[column] + bias, b = the
/// same of `second`; x is in shared memory.
template <class T, class W, class F>
GISTKV_HD void multiply_pairs(W& w, const normed_rows<T>& x, const weight_rows<T>& first,
                              const weight_rows<T>& second, F&& f) {
  typename W::template registers<float, 8> sums;
  w.each([&](int lane) {
    for (int e = 0; e < 8; ++e) sums(lane, e) = 0.0F;
  });
  const int pitch = few_rows_pitch(x.d);
  for (int chunk = w.index(); chunk < x.d / 32; chunk += few_rows_warps) {
    typename W::template registers<std::uint32_t, 4> a, b;
    typename W::template registers<std::uint32_t, 8> left;  // Words 0 and 1 of rows r, r + 8; ...
    w.each([&](int lane) {
      const int row = lane % 32 / 4, dim = 32 * chunk + lane % 4 * 8;
      W::load_words(first.w + row * first.stride + dim,
                    [&](int i, std::uint32_t word) { a(lane, i) = word; });
      W::load_words(second.w + row * second.stride + dim,
                    [&](int i, std::uint32_t word) { b(lane, i) = word; });
      for (int h = 0; h < 2; ++h) {
        const int r = row + 8 * h;
        for (int i = 0; i < 4; ++i) {
          left(lane, 2 * i + h) =
              r < x.n ? *w.template shared<std::uint32_t>(
                            static_cast<std::uint32_t>(2 * (r * pitch + dim) + 4 * i))
                      : 0U;
        }
      }
    });
    unrolled<2>([&](int step) {
      w.template multiply<T>(sums, 0, left, 4 * step, a, 2 * step);
      w.template multiply<T>(sums, 4, left, 4 * step, b, 2 * step);
    });
  }
  // [warp][row][column, and its partner behind the eighth]
  float* parts = w.template shared<float>(few_rows_x_bytes(x.n, x.d));
  w.each([&](int lane) {
    float* own = parts + w.index() * few_rows_most * 16;
    for (int e = 0; e < 8; ++e) {
      own[fragment_row(lane, e) * 16 + fragment_col(lane, e)] = sums(lane, e);
    }
  });
  w.sync_block();
  w.each([&](int lane) {
    for (int i = w.index() * 32 + lane; i < x.n * few_rows_columns; i += few_rows_warps * 32) {
      const int row = i / few_rows_columns, col = i % few_rows_columns;
      float sum_a = 0.0F, sum_b = 0.0F;
      for (int p = 0; p < few_rows_warps; ++p) {
        const float* part = parts + (p * few_rows_most + row) * 16;
        sum_a += part[col];
        sum_b += part[col + few_rows_columns];
      }
      if (first.bias != nullptr) sum_a += W::to_float(first.bias[col * first.bias_step]);
      if (second.bias != nullptr) sum_b += W::to_float(second.bias[col * second.bias_step]);
      f(row, col, sum_a, sum_b);
    }
  });
}

/// One launch of ops::project.
template <class T, class KV>
struct projection_batch {
  normed_rows<T> x;
  weight_rows<T> maps[3];  ///< Of q, k and v.
  T* q = nullptr;
  index_t q_token = 0, q_head = 0;
  T* k = nullptr;  ///< As `append` reads them.
  T* v = nullptr;
  append_batch<T, KV> append;
  const std::int32_t* positions = nullptr;
  index_t position_step = 0;
  const float* frequencies = nullptr;
  index_t frequency_step = 0;
  float magnitude = 1.0F;
  std::int32_t n_heads = 0;
  unsigned int* counters = nullptr;  ///< 2 n_kv_heads; 0 before and after.
};

template <class T, class KV>
GISTKV_HD int projection_items(const projection_batch<T, KV>& batch) {
  const int heads = batch.n_heads + 2 * batch.append.n_kv_heads;
  return heads * (batch.append.head_dim / (2 * few_rows_columns));
}

/// The work of one block of threads. The last one of a head of keys or values, which knows by its
/// counter, also puts the head's rows into the caches.
template <class T, class KV, class W>
GISTKV_HD void project_columns(W& w, const projection_batch<T, KV>& batch, int number) {
  const append_batch<T, KV>& to = batch.append;
  const int half = to.head_dim / 2;
  const int tiles = half / few_rows_columns;
  int head = number / tiles;
  const int begin = number % tiles * few_rows_columns;
  int map = 0;
  if (head >= batch.n_heads) {
    map = head - batch.n_heads < to.n_kv_heads ? 1 : 2;
    head -= batch.n_heads + (map - 1) * to.n_kv_heads;
  }
  norm_to_shared(w, batch.x);
  T* o = map == 0 ? batch.q : map == 1 ? batch.k : batch.v;
  const index_t token = map == 0 ? batch.q_token : map == 1 ? to.k_token : to.v_token;
  o += head * (map == 0 ? batch.q_head : map == 1 ? to.k_head : to.v_head) + begin;
  const weight_rows<T> rows = batch.maps[map].from(index_t{head} * to.head_dim + begin);
  multiply_pairs(w, batch.x, rows, rows.from(half), [&](int row, int col, float a, float b) {
    if (map != 2) {
      float sine = 0.0F, cosine = 0.0F;
      W::rotation(batch.positions[row * batch.position_step],
                  batch.frequencies[(begin + col) * batch.frequency_step], sine, cosine);
      const float x = batch.magnitude * (a * cosine - b * sine);
      b = batch.magnitude * (b * cosine + a * sine);
      a = x;
    }
    W::store(o + row * token + col, a);
    W::store(o + row * token + half + col, b);
  });
  if (map == 0) return;

  w.publish();  // Before the count says so.
  w.sync_block();
  unsigned int* counter = batch.counters + (map - 1) * to.n_kv_heads + head;
  auto* arrived = w.template shared<unsigned int>(few_rows_shared_bytes(batch.x.n, batch.x.d) - 16);
  if (w.index() == 0) {
    w.each([&](int lane) {
      if (lane == 0) *arrived = w.count_up(counter);
    });
  }
  w.sync_block();
  if (*arrived + 1 != static_cast<unsigned int>(tiles)) return;
  w.publish();  // What the others wrote is seen from here on.
  const int n_tokens = append_items(to) / (2 * to.n_kv_heads);
  for (int t = w.index(); t < n_tokens; t += few_rows_warps) {
    append_row(w, to, (t * to.n_kv_heads + head) * 2 + (map - 1));
  }
  if (w.index() == 0) {
    w.each([&](int lane) {
      if (lane == 0) *counter = 0;
    });
  }
}

/// One launch of ops::gated.
template <class T>
struct gated_batch {
  normed_rows<T> x;
  weight_rows<T> gate, up;
  T* o = nullptr;
  index_t o_row = 0;
  activation_kind kind = activation_kind::silu;
};

/// Columns [8 number, 8 number + 8).
template <class T, class W>
GISTKV_HD void gate_columns(W& w, const gated_batch<T>& batch, int number) {
  norm_to_shared(w, batch.x);
  const int begin = number * few_rows_columns;
  T* o = batch.o + begin;
  multiply_pairs(w, batch.x, batch.gate.from(begin), batch.up.from(begin),
                 [&](int row, int col, float a, float b) {
                   W::store(o + row * batch.o_row + col, W::activate(a, batch.kind) * b);
                 });
}

}  // namespace gistkv::backends::cuda_detail
