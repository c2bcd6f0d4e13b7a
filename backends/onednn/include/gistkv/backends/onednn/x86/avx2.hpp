// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cpuid.h>
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>

/// The kernels for x86-64 with AVX2, FMA and F16C.

namespace gistkv::backends::onednn_detail::avx2 {

/// Whether the CPU unpacks f16 (F16C), as all with AVX2 do; clang 14 has no name to ask for it.
inline bool unpacks_f16() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace gistkv::backends::onednn_detail::avx2

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace gistkv::backends::onednn_detail::avx2 {

inline constexpr int width = 8;

// Each builds on those before it.
// clang-format off
#include <gistkv/backends/onednn/simd/lanes_avx2.inc>
#include <gistkv/backends/onednn/simd/lanes_plain.inc>
#include <gistkv/backends/onednn/simd/functions.inc>
#include <gistkv/backends/onednn/simd/rows.inc>
#include <gistkv/backends/onednn/simd/transpose_avx2.inc>
#include <gistkv/backends/onednn/simd/dot_f32.inc>
#include <gistkv/backends/onednn/simd/attention.inc>
#include <gistkv/backends/onednn/simd/table.inc>
#include <gistkv/backends/onednn/simd/training.inc>
#include <gistkv/backends/onednn/simd/weight_panels.inc>
// clang-format on

}  // namespace gistkv::backends::onednn_detail::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
