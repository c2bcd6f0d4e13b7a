// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// What the machine can do at most, as one line of JSON: products of bf16 pairs (of floats where the
// CPU has no others; of tiles where it has those) out of registers, and reading of memory, on all
// threads.
//
//   gistkv_bench_ceilings [THREADS]
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <gistkv/core/thread_pool.hpp>

namespace {

#if defined(__AVX512F__)
constexpr int n_sums = 24;
#else
constexpr int n_sums = 12;
#endif
// Enough in flight for two units of four cycles each, and registers left.
static_assert(n_sums >= 8);
constexpr int n_rounds = 2'000'000;

#if defined(__AVX512BF16__)
constexpr double flop_a_product = 64;
float multiply() {
  __m512 sum[n_sums];
  for (__m512& s : sum) s = _mm512_setzero_ps();
  __m512bh x;
  std::memset(&x, 1, sizeof x);
  for (int i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < n_sums; ++j) sum[j] = _mm512_dpbf16_ps(sum[j], x, x);
  }
  float total = 0;
  for (const __m512& s : sum) total += _mm512_reduce_add_ps(s);
  return total;
}
#else
#if defined(__AVX512F__)
constexpr int n_lanes = 16;
#else
constexpr int n_lanes = 8;
#endif
using lanes = float __attribute__((vector_size(4 * n_lanes)));
constexpr double flop_a_product = 2 * n_lanes;
float multiply() {
  const volatile float half = 0.5F;  // A number that the compiler must not know.
  const lanes x = half - lanes{};
  lanes sum[n_sums];
  for (int j = 0; j < n_sums; ++j) sum[j] = static_cast<float>(j) * x;
  for (int i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < n_sums; ++j) sum[j] = sum[j] * x + x;
  }
  float total = 0;
  for (const lanes& s : sum) total += s[0];
  return total;
}
#endif

#if defined(__AMX_BF16__)
/// Products of 16 x 32 by 32 x 16 into four sums, which is as many as hide each other's latency.
constexpr double flop_of_tiles = 4 * 2 * 16 * 32 * 16;
float multiply_tiles() {
  alignas(64) std::uint8_t configuration[64] = {1};
  for (int i = 0; i < 8; ++i) {
    configuration[16 + 2 * i] = 64;
    configuration[48 + i] = 16;
  }
  _tile_loadconfig(configuration);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int i = 0; i < n_rounds; ++i) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  float row[16 * 16];
  _tile_stored(0, row, 64);
  _tile_release();
  return row[0];
}
bool has_tiles() { return ::syscall(SYS_arch_prctl, 0x1023, 18) == 0; }  // ARCH_REQ_XCOMP_PERM
#else
constexpr double flop_of_tiles = 0;
float multiply_tiles() { return 0; }
bool has_tiles() { return false; }
#endif

/// Least seconds of five tries.
template <class F>
double least_seconds(F&& f) {
  double least = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    least = std::min(least, took.count());
  }
  return least;
}

}  // namespace

int main(int argc, char** argv) {
  gistkv::thread_pool pool(argc > 1 ? std::atoi(argv[1]) : 0);
  const gistkv::index_t threads = pool.size();
  std::vector<float> results(static_cast<std::size_t>(threads));
  const bool tiles = has_tiles();
  const double multiplied = least_seconds([&] {
    pool.for_tasks(threads, [&](gistkv::index_t i, int) {
      results[static_cast<std::size_t>(i)] = tiles ? multiply_tiles() : multiply();
    });
  });
  const double flop =
      (tiles ? flop_of_tiles : flop_a_product * n_sums) * n_rounds * static_cast<double>(threads);

  const std::vector<std::uint64_t> words(std::size_t{1} << 26, 1);  // 512 MiB, beyond any cache.
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  const double read = least_seconds([&] {
    pool.for_tasks(threads, [&](gistkv::index_t i, int) {
      const auto n = static_cast<gistkv::index_t>(words.size());
      std::uint64_t sum = 0;
      for (gistkv::index_t w = n * i / threads; w < n * (i + 1) / threads; ++w) {
        sum += words[static_cast<std::size_t>(w)];
      }
      sums[static_cast<std::size_t>(i)] = sum;
    });
  });
  float check = 0;
  for (const float r : results) check += r;
  for (const std::uint64_t s : sums) check += static_cast<float>(s);
  std::printf("{\"bf16_gflops\": %.1f, \"bandwidth_gbs\": %.1f, \"threads\": %d, \"check\": %g}\n",
              1e-9 * flop / multiplied, 8e-9 * static_cast<double>(words.size()) / read,
              pool.size(), static_cast<double>(check));
}
