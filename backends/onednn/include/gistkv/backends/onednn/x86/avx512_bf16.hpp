// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>

/// The kernels for x86-64 with AVX-512 and its products of bf16 pairs.

#if defined(__clang__)
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
// g++ 12 sees uninitialised variables in its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
#endif

namespace gistkv::backends::onednn_detail::avx512_bf16 {

inline constexpr int width = 16;

inline __m256i narrowed(__m512 v) { return __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(v)); }

// Each builds on those before it.
// clang-format off
#include <gistkv/backends/onednn/simd/lanes_avx512.inc>
#include <gistkv/backends/onednn/simd/functions.inc>
#include <gistkv/backends/onednn/simd/rows.inc>
#include <gistkv/backends/onednn/simd/transpose_avx512.inc>
#include <gistkv/backends/onednn/simd/dot_bf16.inc>
#include <gistkv/backends/onednn/simd/few_rows_bf16.inc>
#include <gistkv/backends/onednn/simd/attention.inc>
#include <gistkv/backends/onednn/simd/table.inc>
#include <gistkv/backends/onednn/simd/training.inc>
// clang-format on

}  // namespace gistkv::backends::onednn_detail::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
