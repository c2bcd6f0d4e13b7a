// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include <Eigen/Core>

#include <gistkv/core/types.hpp>

/// The inner loops of the eigen backend, on one thread.
///
/// One property holds for all of them: the bits of an output row depend on the inputs of that row
/// only, never on how many rows share the call, on the thread or on an address. A batch of n then
/// equals n single calls exactly. Eigen's own products do not have it (one row goes to another
/// routine than many, blocks follow the size, loops peel up to an aligned address), hence loops
/// over Eigen's packet layer: one vector type that is AVX-512, AVX2, SSE, NEON or a scalar as
/// compiled, and `pmadd`, which says where a fused multiply-add is meant instead of leaving it to a
/// flag.
///
/// The pragmas unroll loops over arrays of registers: these stay in registers only if every index
/// is a constant, and gcc unrolls such loops by itself at -O3 alone.

namespace gistkv::backends::eigen_detail {

/// One vector register of T.
template <class T>
struct lanes {
  using packet = typename Eigen::internal::packet_traits<T>::type;
  static constexpr index_t size = Eigen::internal::unpacket_traits<packet>::size;

  static packet constant(T value) { return Eigen::internal::pset1<packet>(value); }
  static packet load(const T* p) { return Eigen::internal::ploadu<packet>(p); }
  static void store(T* p, const packet& v) { Eigen::internal::pstoreu(p, v); }

  /// The first n < size elements; the other lanes are `rest`.
  static packet load_part(const T* p, index_t n, T rest) {
    alignas(64) std::array<T, static_cast<std::size_t>(size)> copy;
    copy.fill(rest);
    std::copy_n(p, n, copy.begin());
    return Eigen::internal::pload<packet>(copy.data());
  }
  static void store_part(T* p, const packet& v, index_t n) {
    alignas(64) std::array<T, static_cast<std::size_t>(size)> copy;
    Eigen::internal::pstore(copy.data(), v);
    std::copy_n(copy.begin(), n, p);
  }
};

/// Calls f(packet) for all of row[0, n); lanes past the end are `rest`.
template <class T, class F>
void for_each_packet(const T* row, index_t n, T rest, F&& f) {
  using v = lanes<T>;
  index_t j = 0;
  for (; j + v::size <= n; j += v::size) f(v::load(row + j));
  if (j < n) f(v::load_part(row + j, n - j, rest));
}

/// o[j] = f(x[j]) packet by packet; o may be x.
template <class T, class F>
void map_packets(T* o, const T* x, index_t n, F&& f) {
  using v = lanes<T>;
  index_t j = 0;
  for (; j + v::size <= n; j += v::size) v::store(o + j, f(v::load(x + j)));
  if (j < n) v::store_part(o + j, f(v::load_part(x + j, n - j, T(0))), n - j);
}

/// x / (1 + e^-z): silu for z = x, and the tanh form of gelu since (1 + tanh u) / 2 = sigmoid(2u).
template <class T>
typename lanes<T>::packet times_sigmoid(const typename lanes<T>::packet& x,
                                        const typename lanes<T>::packet& z) {
  using namespace Eigen::internal;
  using v = lanes<T>;
  // Below this e^-z overflows and the result is 0, also for x = -inf, whose product would be NaN.
  constexpr T lowest = sizeof(T) == 4 ? T(-87) : T(-708);
  const auto product = pdiv(x, padd(v::constant(T(1)), pexp(pnegate(z))));
  return pselect(pcmp_lt(z, v::constant(lowest)), v::constant(T(0)), product);
}

/// out(r, sums, C) with sums[c] = sum_p a[r, p] b[c, p] for R rows of a and C rows of b, which are
/// lda and ldb apart. Every sum has its own accumulator, filled in the order of p, whatever R and C
/// are.
template <int R, int C, class T, class Out>
void dot_block(const T* a, index_t lda, const T* b, index_t ldb, index_t k, Out&& out) {
  using v = lanes<T>;
  typename v::packet sum[std::size_t{R}][std::size_t{C}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = v::constant(T(0));
  }
  const auto step = [&](auto&& load) {
    typename v::packet right[std::size_t{C}];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) right[c] = load(b + c * ldb);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename v::packet left = load(a + r * lda);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        sum[r][c] = Eigen::internal::pmadd(left, right[c], sum[r][c]);
      }
    }
  };
  index_t p = 0;
  for (; p + v::size <= k; p += v::size) {
    step([p](const T* row) { return v::load(row + p); });
  }
  if (p < k) {
    step([p, k](const T* row) { return v::load_part(row + p, k - p, T(0)); });
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    T row[std::size_t{C}];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) row[c] = Eigen::internal::predux(sum[r][c]);
    out(r, row, C);
  }
}

/// out(i, j, sums, count) for m rows of the product a b^T with b [n, k]: columns [j, j + count).
template <class T, class Out>
void dot_products(const T* a, index_t lda, index_t m, const T* b, index_t ldb, index_t n, index_t k,
                  Out&& out) {
  // 4 x 4 sums and the 5 operands of a step fit 32 vector registers, 4 x 2 fit 16. A single row has
  // 8 sums in flight, which covers the latency of two multiply-add units.
  constexpr int R = 4;
  constexpr int C = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 2;
  constexpr int C1 = 8;
  // Rows of b that stay in a core's second-level cache while all rows of a pass.
  constexpr index_t panel_bytes = 256 * 1024;
  const index_t row_bytes = std::max<index_t>(k, 1) * static_cast<index_t>(sizeof(T));
  const index_t panel = std::max<index_t>(panel_bytes / row_bytes / C1 * C1, C1);

  for (index_t begin = 0; begin < n; begin += panel) {
    const index_t end = std::min(n, begin + panel);
    const auto rows = [&](auto block_rows, auto block_columns, index_t i) {
      constexpr int BR = block_rows;
      constexpr int BC = block_columns;
      index_t j = begin;
      const auto put = [&](int r, const T* sums, index_t count) { out(i + r, j, sums, count); };
      for (; j + BC <= end; j += BC) {
        dot_block<BR, BC>(a + i * lda, lda, b + j * ldb, ldb, k, put);
      }
      for (; j < end; ++j) dot_block<BR, 1>(a + i * lda, lda, b + j * ldb, ldb, k, put);
    };
    index_t i = 0;
    for (; i + R <= m; i += R)
      rows(std::integral_constant<int, R>{}, std::integral_constant<int, C>{}, i);
    for (; i < m; ++i) rows(std::integral_constant<int, 1>{}, std::integral_constant<int, C1>{}, i);
  }
}

/// out(r, sums, count) for R rows of a and the first P packets of columns of b: sums[c] =
/// sum_q a[r, q] b[q, c], in the order of q, so that terms of a that are 0 leave the bits of the
/// others alone.
template <int R, int P, class T, class Out>
void product_block(const T* a, index_t lda, const T* b, index_t ldb, index_t k, Out&& out) {
  using v = lanes<T>;
  typename v::packet sum[std::size_t{R}][std::size_t{P}];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[r][p] = v::constant(T(0));
  }
  for (index_t q = 0; q < k; ++q) {
    typename v::packet right[std::size_t{P}];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) right[p] = v::load(b + q * ldb + p * v::size);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename v::packet left = v::constant(a[r * lda + q]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[r][p] = Eigen::internal::pmadd(left, right[p], sum[r][p]);
    }
  }
  alignas(64) T row[P * v::size];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) Eigen::internal::pstore(row + p * v::size, sum[r][p]);
    out(r, row, P * v::size);
  }
}

/// out(i, j, sums, count) for m rows of the product a b with b [k, n]: columns [j, j + count).
template <class T, class Out>
void products(const T* a, index_t lda, index_t m, const T* b, index_t ldb, index_t n, index_t k,
              Out&& out) {
  using v = lanes<T>;
  constexpr int R = 4;
  constexpr int P = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 2;
  const auto rows = [&](auto block_rows, index_t i) {
    constexpr int BR = block_rows;
    const T* left = a + i * lda;
    index_t j = 0;
    const auto put = [&](int r, const T* sums, index_t count) { out(i + r, j, sums, count); };
    for (; j + P * v::size <= n; j += P * v::size) {
      product_block<BR, P>(left, lda, b + j, ldb, k, put);
    }
    for (; j + v::size <= n; j += v::size) product_block<BR, 1>(left, lda, b + j, ldb, k, put);
    if (j == n) return;
    for (int r = 0; r < BR; ++r) {
      T sums[v::size] = {};
      for (index_t q = 0; q < k; ++q) {
        const T factor = left[r * lda + q];
        for (index_t c = 0; c < n - j; ++c) sums[c] += factor * b[q * ldb + j + c];
      }
      put(r, sums, n - j);
    }
  };
  index_t i = 0;
  for (; i + R <= m; i += R) rows(std::integral_constant<int, R>{}, i);
  for (; i < m; ++i) rows(std::integral_constant<int, 1>{}, i);
}

}  // namespace gistkv::backends::eigen_detail
