// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Attention out of a library's products, with loops of the host for the library.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <cuda/layouts.hpp>
#include <gistkv/backends/cuda/cascade.hpp>

namespace gistkv {
namespace {

using namespace emulation;

enum class error { none, mask_ignored, pieces_not_merged, weights_not_shrunk, values_of_first_row };

struct host_math {
  static float minus_infinity() { return -std::numeric_limits<float>::infinity(); }
  static float exp(float x) { return std::exp(x); }
  static float log(float x) { return std::log(x); }
};

/// What cascade.cuh launches, one element after the other.
struct host_library {
  error planted = error::none;
  int n_products = 0;

  template <class T>
  void multiply(cascade_matrix<float> o, cascade_matrix<const T> a, cascade_matrix<const T> b,
                int group, int m, int n, int k, bool transpose_b) {
    ++n_products;
    for (int g = 0; g < group; ++g) {
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          float sum = 0.0F;
          for (int p = 0; p < k; ++p) {
            const index_t row = planted == error::values_of_first_row ? 0 : p;
            const T y = b.data[g * b.head + (transpose_b ? j * b.row + p : row * b.row + j)];
            sum += static_cast<float>(a.data[g * a.head + i * a.row + p]) * static_cast<float>(y);
          }
          o.data[g * o.head + i * o.row + j] = sum;
        }
      }
    }
  }
  template <class T>
  void weigh(const cascade_memory<T>& memory, const key_block& block, const visible_spans* spans,
             int group, int m, float scale) {
    for_rows(memory, group, m, [&](index_t row, int, int i) {
      const float* s = memory.scores + row * memory.most_keys;
      const auto sees = [&](int j) {
        return planted == error::mask_ignored || block.sees(spans[i], j);
      };
      float top = host_math::minus_infinity(), sum = 0.0F;
      for (int j = 0; j < block.rows; ++j) top = sees(j) ? std::max(top, scale * s[j]) : top;
      for (int j = 0; j < block.rows; ++j) sum += sees(j) ? std::exp(scale * s[j] - top) : 0.0F;
      for (int j = 0; j < block.rows; ++j) {
        const float weight = sees(j) ? std::exp(scale * s[j] - top) / sum : 0.0F;
        memory.weights[row * memory.most_keys + j] = T(weight);
      }
      memory.part_lse[row] = sum > 0.0F ? top + std::log(sum) : host_math::minus_infinity();
    });
  }
  template <class T>
  void merge(const cascade_memory<T>& memory, int group, int m, int head_dim, bool first) {
    for_rows(memory, group, m, [&](index_t row, int, int) {
      const bool alone = first || planted == error::pieces_not_merged;
      auto w = merge_weights::of<host_math>(
          alone ? host_math::minus_infinity() : memory.all_lse[row], memory.part_lse[row]);
      if (planted == error::weights_not_shrunk && !first) w.first = 1.0F;
      memory.all_lse[row] = w.lse;
      for (index_t d = row * head_dim; d < (row + 1) * head_dim; ++d) {
        memory.all[d] = (w.second > 0.0F ? w.second * memory.part[d] : 0.0F) +
                        (w.first > 0.0F ? w.first * memory.all[d] : 0.0F);
      }
    });
  }
  template <class T>
  void store(const cascade_memory<T>& memory, cascade_matrix<T> o, cascade_matrix<T> lse, int group,
             int m, int head_dim, bool empty) {
    for_rows(memory, group, m, [&](index_t row, int g, int i) {
      for (int d = 0; d < head_dim; ++d) {
        o.data[g * o.head + i * o.row + d] = T(empty ? 0.0F : memory.all[row * head_dim + d]);
      }
      if (lse.data == nullptr) return;
      lse.data[g * lse.head + i * lse.row] =
          T(empty ? host_math::minus_infinity() : memory.all_lse[row]);
    });
  }

 private:
  template <class T, class F>
  static void for_rows(const cascade_memory<T>& memory, int group, int m, F&& f) {
    for (int g = 0; g < group; ++g) {
      for (int i = 0; i < m; ++i) f(index_t{g} * memory.most_tokens + i, g, i);
    }
  }
};

template <class T>
int run(layout<T>& texts, const layout_options& options, std::size_t n_bytes,
        error planted = error::none) {
  std::vector<float> floats(n_bytes / 4, std::numeric_limits<float>::quiet_NaN());
  host_library library{planted};
  const attention_batch<T> batch = texts.batch(options.group);
  for (int i = 0; i < batch.n_sequences; ++i) {
    const auto memory =
        cascade_memory<T>::of(floats.data(), n_bytes, options.group, options.head_dim);
    attend_cascade<T>(library, batch.sequences[i], texts.cases()[static_cast<std::size_t>(i)].spans,
                      options.n_kv_heads, options.group, options.head_dim, batch.scale, memory);
  }
  return library.n_products;
}

/// With as much memory as the backend has, and with so little that there are many pieces.
template <class T>
void sweep_layouts(int begin, int end, double budget) {
  const auto options_of = [](int i) {
    constexpr int head_dims[] = {80, 32, 96, 5};
    layout_options options = sweep(i, head_dims[i % 4]);
    const bool large = i % 8 == 0;  // More rows than a tile, more keys than a piece.
    options.most_tokens = large ? 200 : 60;
    options.most_past = large ? 500 : 150;
    return options;
  };
  check_layouts<T>(begin, end, budget, options_of,
                   [](layout<T>& texts, const layout_options& options, int i) {
                     const auto few = static_cast<std::size_t>(options.group) * 16 * 1024;
                     run(texts, options, i % 2 == 0 ? std::size_t{16} << 20 : few);
                   });
}

TEST_CASE("cascade, float") { sweep_layouts<float>(0, 70, 2.0); }
TEST_CASE("cascade, bf16") { sweep_layouts<bf16>(70, 140, 1.0); }
TEST_CASE("cascade, f16") { sweep_layouts<f16>(140, 210, 1.0); }

TEST_CASE("memory is cut into pieces that lie apart and inside") {
  for (const std::size_t n_bytes : {std::size_t{16} << 20, std::size_t{300000}}) {
    for (const int group : {1, 3, 16, 64}) {
      std::vector<float> memory(n_bytes / 4);
      const auto m = cascade_memory<bf16>::of(memory.data(), n_bytes, group, 80);
      CHECK(m.most_tokens >= 1);
      CHECK(m.most_keys >= 32);
      const index_t rows = index_t{group} * m.most_tokens;
      CHECK(m.part - m.scores == rows * m.most_keys);
      CHECK(m.all - m.part == rows * 80);
      CHECK(m.part_lse - m.all == rows * 80);
      CHECK(m.all_lse - m.part_lse == rows);
      CHECK(reinterpret_cast<std::uintptr_t>(m.weights) % 16 == 0);
      CHECK(reinterpret_cast<const float*>(m.weights) >= m.all_lse + rows);
      CHECK(reinterpret_cast<const std::byte*>(m.weights + rows * m.most_keys) <=
            reinterpret_cast<const std::byte*>(memory.data()) + n_bytes);
    }
  }
}

TEST_CASE("an error planted under the cascade is seen") {
  layout_options options = sweep(3, 80);
  options.most_past = 900;
  using enum error;
  for (const error planted :
       {none, mask_ignored, pieces_not_merged, weights_not_shrunk, values_of_first_row}) {
    CAPTURE(static_cast<int>(planted));
    layout<bf16> texts(options);
    run(texts, options, static_cast<std::size_t>(options.group) * 16 * 1024, planted);
    CHECK((texts.compare().worst <= 1.0) == (planted == none));
  }
}

}  // namespace
}  // namespace gistkv
