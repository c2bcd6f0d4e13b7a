// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the fused kernels for few rows, run on the host one block of threads at a time.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/few_rows.hpp>
#include <gistkv/core/random.hpp>

namespace gistkv {
namespace {

using namespace emulation;

/// A float vector whose data begins where 16 bytes do.
template <class T>
class aligned {
 public:
  aligned() = default;
  explicit aligned(index_t n) : memory_(static_cast<std::size_t>(n) + 16) {}
  T* data() {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (16 - at % 16) % 16 / sizeof(T);
  }

 private:
  std::vector<T> memory_;
};

struct options {
  int n = 1;
  int d = 64;
  bool centred = false;
  bool biases = false;
  std::uint64_t seed = 1;
};

/// Rows, their norm in double precision, and weights that products are made with.
template <class T>
struct inputs {
  explicit inputs(const options& o) : how(o), random(o.seed), x(o.n * stride()), weight(2 * o.d) {
    for (int r = 0; r < how.n; ++r) {
      for (int i = 0; i < how.d; ++i) x.data()[r * stride() + i] = draw();
    }
    for (int i = 0; i < how.d; ++i) weight.data()[2 * i] = draw();
  }
  index_t stride() const { return how.d + 3; }
  T draw(double magnitude = 1.0) { return T(static_cast<float>(magnitude * random.normal())); }

  normed_rows<T> rows() {
    return {x.data(), stride(), weight.data(), 2, how.n, how.d, 1e-5F, how.centred};
  }
  /// Rows of a weight that makes numbers near 1, each 8 elements longer than it need be.
  weight_rows<T> make(aligned<T>& w, aligned<T>& bias, index_t n_rows) {
    const index_t pitch = how.d + 8;
    w = aligned<T>(n_rows * pitch);
    bias = aligned<T>(n_rows);
    for (index_t i = 0; i < n_rows * pitch; ++i) w.data()[i] = draw(1.0 / std::sqrt(how.d));
    for (index_t i = 0; i < n_rows; ++i) bias.data()[i] = draw();
    return {w.data(), pitch, how.biases ? bias.data() : nullptr, 1};
  }
  std::vector<double> normed(int r) {
    const T* from = x.data() + r * stride();
    double mean = 0.0, squares = 0.0;
    for (int i = 0; how.centred && i < how.d; ++i) mean += number(from[i]) / how.d;
    for (int i = 0; i < how.d; ++i) squares += std::pow(number(from[i]) - mean, 2) / how.d;
    std::vector<double> y;
    for (int i = 0; i < how.d; ++i) {
      y.push_back((number(from[i]) - mean) / std::sqrt(squares + 1e-5) *
                  number(weight.data()[2 * i]));
    }
    return y;
  }
  /// y . row of w, and the sum of what it is made of in size.
  struct product {
    double value, size;
  };
  product multiply(const std::vector<double>& y, const weight_rows<T>& w, index_t row) {
    product p{0.0, 0.0};
    for (int i = 0; i < how.d; ++i) {
      const double term = y[static_cast<std::size_t>(i)] * number(w.w[row * w.stride + i]);
      p.value += term;
      p.size += term * term;
    }
    p.size = std::sqrt(p.size);
    if (w.bias != nullptr) p.value += number(w.bias[row]);
    return p;
  }
  static double number(T v) { return static_cast<double>(static_cast<float>(v)); }

  options how;
  random_generator random;
  aligned<T> x, weight;
};

/// Greatest error as a share of what is likely from rounding normed x and the result to T.
class judge {
 public:
  void take(double found, double want, double size, double eps) {
    // Roundings of the terms are as likely up as down; four times their deviation, and the result.
    const double budget = eps * (2.0 * size + 0.5 * std::abs(want)) + 1e-6;
    const double error = std::abs(found - want) / budget;
    worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
    largest = std::max(largest, std::abs(want));
  }
  double worst = 0.0;
  double largest = 0.0;
};

template <class T>
judge gate(const options& how, activation_kind kind, int columns, fault planted = fault::none) {
  inputs<T> in(how);
  aligned<T> w[2], bias[2];
  const index_t pitch = columns + 2;
  std::vector<T> o(static_cast<std::size_t>(how.n * pitch), T(77.0F));
  gated_batch<T> batch{
      in.rows(), in.make(w[0], bias[0], columns), in.make(w[1], bias[1], columns), o.data(), pitch,
      kind};
  for (int i = 0; i < columns / few_rows_columns; ++i) {
    run_block(few_rows_warps, few_rows_shared_bytes(how.n, how.d), how.seed, planted,
              [&](group<32>& g) { gate_columns(g, batch, i); });
  }
  judge found;
  for (int r = 0; r < how.n; ++r) {
    const std::vector<double> y = in.normed(r);
    for (int c = 0; c < columns; ++c) {
      const auto a = in.multiply(y, batch.gate, c), b = in.multiply(y, batch.up, c);
      const double z = kind == activation_kind::silu
                           ? a.value / (1.0 + std::exp(-a.value))
                           : 0.5 * a.value * std::erfc(-a.value / std::sqrt(2.0));
      // The slope of either activation is at most 1.13.
      found.take(in.number(o[static_cast<std::size_t>(r * pitch + c)]), z * b.value,
                 1.2 * a.size * std::abs(b.value) + std::abs(z) * b.size, epsilon_of<T>());
    }
    for (int c = columns; c < pitch; ++c) {
      found.take(in.number(o[static_cast<std::size_t>(r * pitch + c)]), 77.0, 0.0, 0.0);
    }
  }
  return found;
}

TEST_CASE("gate and up in one launch") {
  int i = 0;
  for (const int n : {1, 5, 16}) {
    for (const int d : {32, 64, 576, 288}) {
      CAPTURE(n);
      CAPTURE(d);
      const options how{n, d, i % 2 == 1, i % 3 == 1, static_cast<std::uint64_t>(10 + i)};
      const auto kind = i % 2 == 0 ? activation_kind::silu : activation_kind::gelu;
      const judge wide = gate<bf16>(how, kind, 24), narrow = gate<f16>(how, kind, 24);
      CHECK(wide.worst <= 1.0);
      CHECK(wide.largest > 0.1);
      CHECK(narrow.worst <= 1.0);
      ++i;
    }
  }
}

/// Three heads of queries, two of keys and values, into caches of KV of two sequences.
template <class T, class KV>
struct projection {
  static constexpr int n_heads = 3, n_kv_heads = 2, capacity = 20;
  int head_dim;
  inputs<T> in;
  aligned<T> w[3], bias[3];
  std::vector<T> q, k, v;
  std::vector<std::int32_t> positions, rows[4];
  std::vector<float> frequencies;
  std::vector<KV> k_cache[4], v_cache[4];
  std::vector<unsigned int> counters;
  projection_batch<T, KV> batch;

  projection(const options& how, int dim)
      : head_dim(dim), in(how), counters(2 * n_kv_heads, 0), batch() {
    const auto size = [&](int heads) { return static_cast<std::size_t>(how.n * heads * head_dim); };
    q.assign(size(n_heads), T(77.0F));
    k.assign(size(n_kv_heads), T(77.0F));
    v = k;
    batch.x = in.rows();
    for (std::size_t i = 0; i < 3; ++i) {
      batch.maps[i] = in.make(w[i], bias[i], (i == 0 ? n_heads : n_kv_heads) * head_dim);
    }
    for (int i = 0; i < how.n; ++i) positions.push_back(i == 0 ? 1000000 : 3 * i);
    for (int j = 0; j < head_dim / 2; ++j) {
      frequencies.push_back(static_cast<float>(std::pow(1e4, -2.0 * j / head_dim)));
    }
    batch.q = q.data();
    batch.q_token = n_heads * head_dim;
    batch.q_head = head_dim;
    batch.k = k.data();
    batch.v = v.data();
    batch.positions = positions.data();
    batch.position_step = 1;
    batch.frequencies = frequencies.data();
    batch.frequency_step = 1;
    batch.magnitude = 1.25F;
    batch.n_heads = n_heads;
    batch.counters = counters.data();
    auto& a = batch.append;
    a.k = k.data();
    a.v = v.data();
    a.k_token = a.v_token = n_kv_heads * head_dim;
    a.k_head = a.v_head = head_dim;
    a.n_kv_heads = n_kv_heads;
    a.head_dim = head_dim;
    const index_t width = row_width<KV>(head_dim);
    const auto target = [&](std::size_t i, int count, bool all) {
      for (int t = 0; t < count; ++t) rows[i].push_back(all || t % 3 == 0 ? capacity - 1 - t : -1);
      k_cache[i].assign(static_cast<std::size_t>(n_kv_heads * capacity * width), KV{});
      v_cache[i] = k_cache[i];
      return append_target<KV>{k_cache[i].data(), v_cache[i].data(),
                               capacity * width,  width,
                               capacity * width,  width,
                               rows[i].data(),    1};
    };
    const int first = how.n / 3;
    a.sequences[0] = {target(0, first, false), target(1, first, true), 0, first};
    a.sequences[1] = {target(2, how.n - first, false), target(3, how.n - first, true), first,
                      how.n - first};
    a.n_sequences = 2;
  }

  void run(fault planted = fault::none) {
    std::vector<int> order;
    for (int i = 0; i < projection_items(batch); ++i) order.push_back(i);
    for (std::size_t i = order.size(); i > 1; --i) {
      const auto j = static_cast<std::size_t>(in.random.below(static_cast<index_t>(i)));
      std::swap(order[i - 1], order[j]);
    }
    for (const int i : order) {
      run_block(few_rows_warps, few_rows_shared_bytes(in.how.n, in.how.d), in.how.seed, planted,
                [&](group<32>& g) { project_columns(g, batch, i); });
    }
  }

  judge outputs() {
    judge found;
    const std::vector<T>* all[] = {&q, &k, &v};
    for (int r = 0; r < in.how.n; ++r) {
      const std::vector<double> y = in.normed(r);
      for (std::size_t m = 0; m < 3; ++m) {
        const int heads = m == 0 ? n_heads : n_kv_heads;
        for (int h = 0; h < heads; ++h) {
          for (int j = 0; j < head_dim / 2; ++j) {
            const index_t row = h * head_dim + j;
            const auto a = in.multiply(y, batch.maps[m], row);
            const auto b = in.multiply(y, batch.maps[m], row + head_dim / 2);
            const double angle = positions[static_cast<std::size_t>(r)] *
                                 double{frequencies[static_cast<std::size_t>(j)]};
            const double c = m == 2 ? 1.0 : 1.25 * std::cos(angle);
            const double s = m == 2 ? 0.0 : 1.25 * std::sin(angle);
            const auto at = static_cast<std::size_t>((r * heads + h) * head_dim + j);
            const double size = 1.25 * std::max(a.size, b.size);
            const std::vector<T>& o = *all[m];
            found.take(in.number(o[at]), a.value * c - b.value * s, size, epsilon_of<T>());
            found.take(in.number(o[at + static_cast<std::size_t>(head_dim / 2)]),
                       b.value * c + a.value * s, size, epsilon_of<T>());
          }
        }
      }
    }
    return found;
  }
  /// Cache rows that are not what encode_row makes of k and v.
  int n_wrong() {
    int wrong = 0;
    const index_t width = row_width<KV>(head_dim);
    for (std::size_t i = 0; i < 4; ++i) {
      std::vector<KV> want_k(k_cache[i].size()), want_v(v_cache[i].size());
      const int first = i < 2 ? 0 : in.how.n / 3;
      for (std::size_t t = 0; t < rows[i].size(); ++t) {
        if (rows[i][t] < 0) continue;
        for (int h = 0; h < n_kv_heads; ++h) {
          const index_t from = ((first + static_cast<index_t>(t)) * n_kv_heads + h) * head_dim;
          const index_t to = (h * capacity + rows[i][t]) * width;
          encode_row(k.data() + from, head_dim, want_k.data() + to);
          encode_row(v.data() + from, head_dim, want_v.data() + to);
        }
      }
      wrong += !std::equal(want_k.begin(), want_k.end(), k_cache[i].begin());
      wrong += !std::equal(want_v.begin(), want_v.end(), v_cache[i].begin());
    }
    return wrong + (std::count(counters.begin(), counters.end(), 0U) !=
                    static_cast<std::ptrdiff_t>(counters.size()));
  }
};

template <class T, class KV>
void check_projection(const options& how, int head_dim) {
  CAPTURE(how.n);
  CAPTURE(how.d);
  CAPTURE(head_dim);
  projection<T, KV> p(how, head_dim);
  CHECK(p.n_wrong() > 0);
  p.run();
  const judge found = p.outputs();
  CHECK(found.worst <= 1.0);
  CHECK(found.largest > 0.1);
  CHECK(p.n_wrong() == 0);
}

TEST_CASE("norm, QKV, rotation and append in one launch") {
  check_projection<bf16, bf16>({1, 64, false, false, 1}, 64);
  check_projection<bf16, bf16>({5, 576, false, false, 2}, 64);
  check_projection<bf16, q8>({5, 160, false, true, 3}, 64);
  check_projection<f16, q8>({16, 96, true, true, 4}, 128);
  check_projection<f16, f16>({3, 32, true, false, 5}, 48);
}

TEST_CASE("an error planted in the machine under the kernels for few rows is seen") {
  constexpr options how{5, 288, false, true, 9};
  using enum fault;
  for (const fault planted :
       {none, barrier_missing, right_operand_swapped, left_operand_off_by_one}) {
    CAPTURE(static_cast<int>(planted));
    CHECK((gate<bf16>(how, activation_kind::silu, 16, planted).worst <= 1.0) == (planted == none));
    projection<bf16, q8> p(how, 64);
    p.run(planted);
    CHECK((p.outputs().worst <= 1.0 && p.n_wrong() == 0) == (planted == none));
  }
}

TEST_CASE("an error in what the kernel for few rows is told is seen") {
  const auto holds_with = [](auto&& spoil) {
    projection<bf16, q8> p({5, 96, false, true, 9}, 64);
    spoil(p);
    p.run();
    return p.outputs().worst <= 1.0 && p.n_wrong() == 0;
  };
  CHECK(holds_with([](auto&) {}));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.position_step = 0; }));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.magnitude = 1.0F; }));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.x.weight_step = 1; }));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.x.eps = 0.1F; }));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.append.sequences[1].first_token = 0; }));
  CHECK_FALSE(holds_with([](auto& p) { p.batch.counters[0] = 1; }));
}

}  // namespace
}  // namespace gistkv
