// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cpuid.h>
#include <immintrin.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/x86/avx512_bf16.hpp>

/// Attention for x86-64 with AMX: that of AVX-512 with BF16, whose words in scratch memory already
/// lie as tiles want them (rows of 16 pairs of neighbours in the summed dimension), but with
/// products of 16 rows by tiles of 16 x 32.

#if defined(__clang__)
#pragma clang attribute push(                                                            \
    __attribute__((                                                                      \
        target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16,amx-tile,amx-bf16")
#endif

namespace gistkv::backends::onednn_detail::amx {

/// Eight tiles of 16 rows of 64 bytes, until the end of the scope.
class tiles_in_use {
 public:
  tiles_in_use() {
    alignas(64) configuration c;
    for (int i = 0; i < 8; ++i) {
      c.row_bytes[i] = 64;
      c.rows[i] = 16;
    }
    // All of it is read: g++ 12 believes that of its first 8 bytes alone (GCC bug 114098).
    __asm__ volatile("" : : "m"(c));
    _tile_loadconfig(&c);
  }
  ~tiles_in_use() { _tile_release(); }
  tiles_in_use(const tiles_in_use&) = delete;
  tiles_in_use& operator=(const tiles_in_use&) = delete;

 private:
  struct configuration {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  };
  static_assert(sizeof(configuration) == 64);
};

/// c[16, 16 V] (+)= a[16, 32 n_steps] b, with a in pairs along a row and b in pairs along a column,
/// both in words; strides in words.
template <int V>
void tile_product(const std::uint32_t* a, index_t lda, const std::uint32_t* b, index_t ldb,
                  index_t n_steps, float* c, index_t ldc, bool accumulate) {
  static_assert(V == 2 || V == 4);
  const auto bytes = [](index_t words) { return static_cast<std::size_t>(4 * words); };
  if (accumulate) {
    _tile_loadd(0, c, bytes(ldc));
    _tile_loadd(1, c + 16, bytes(ldc));
    if constexpr (V == 4) {
      _tile_loadd(2, c + 32, bytes(ldc));
      _tile_loadd(3, c + 48, bytes(ldc));
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (V == 4) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  for (index_t k = 0; k < n_steps; ++k) {
    const std::uint32_t* right = b + 16 * k * ldb;
    _tile_loadd(4, a + 16 * k, bytes(lda));
    _tile_loadd(5, right, bytes(ldb));
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, right + 16, bytes(ldb));
    _tile_dpbf16ps(1, 4, 6);
    if constexpr (V == 4) {
      _tile_loadd(5, right + 32, bytes(ldb));
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(6, right + 48, bytes(ldb));
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  _tile_stored(0, c, bytes(ldc));
  _tile_stored(1, c + 16, bytes(ldc));
  if constexpr (V == 4) {
    _tile_stored(2, c + 32, bytes(ldc));
    _tile_stored(3, c + 48, bytes(ldc));
  }
}

/// The same on n columns, a multiple of 32.
inline void tile_product(const std::uint32_t* a, index_t lda, const std::uint32_t* b, index_t ldb,
                         index_t n_steps, float* c, index_t ldc, bool accumulate, index_t n) {
  index_t j = 0;
  for (; j + 64 <= n; j += 64) {
    tile_product<4>(a, lda, b + j, ldb, n_steps, c + j, ldc, accumulate);
  }
  if (j < n) tile_product<2>(a, lda, b + j, ldb, n_steps, c + j, ldc, accumulate);
}

struct dot_bf16 : avx512_bf16::dot_bf16 {
  static constexpr bool has_tiles = true;
  static constexpr index_t key_step = 32;

  /// Tiles are whole: both products have this many columns, one sums over them.
  static constexpr bool takes(index_t head_dim) { return head_dim % 32 == 0; }

  using session = tiles_in_use;

  /// See avx512_bf16::attend_rows.
  static void attend_rows(const avx512_bf16::attention_memory<dot_bf16>& m,
                          const avx512_bf16::key_range* ranges, index_t group, index_t row,
                          float scale, const partial_attention& result) {
    constexpr index_t n_rows = most_group_rows;
    static_assert(n_rows == 16);
    const avx512_bf16::key_range seen =
        avx512_bf16::seen_together(ranges, row / group, (row + n_rows - 1) / group, key_step);
    const auto [begin, end] = seen;
    if (begin >= end) return;
    tile_product(m.q + row * m.d_words, m.d_words, m.keys + begin, m.block, m.d_words / 16,
                 m.scores + begin, m.block, false, end - begin);
    const partial_attention rows = result.from(row, m.d_padded);
    float factor[n_rows];
    avx512_bf16::weigh_rows<dot_bf16, n_rows>(m, ranges, group, row, seen, scale, rows, factor);
    for (index_t r = 0; r < n_rows; ++r) {
      float* o = rows.o + r * m.d_padded;
      const __m512 f = _mm512_set1_ps(factor[r]);
      for (index_t j = 0; j < m.d_padded; j += 16) {
        _mm512_storeu_ps(o + j, _mm512_loadu_ps(o + j) * f);
      }
    }
    tile_product(m.weights + begin / length, m.block, m.values + begin / length * m.d_padded,
                 m.d_padded, (end - begin) / key_step, rows.o, m.d_padded, true, m.d_padded);
  }
};

/// Whether the CPU has tiles of BF16 and the system lets this process use them.
inline bool available() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16_tiles = 1U << 22, tiles = 1U << 24;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & bf16_tiles) == 0 || (d & tiles) == 0) {
    return false;
  }
  // arch_prctl(ARCH_REQ_XCOMP_PERM, tile data): registers this large are given on request only.
  return ::syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

}  // namespace gistkv::backends::onednn_detail::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
