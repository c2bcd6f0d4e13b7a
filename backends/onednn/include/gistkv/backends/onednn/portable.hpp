// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/training_kernels.hpp>

/// The kernels for any CPU: the compiler's registers of four floats.

namespace gistkv::backends::onednn_detail::portable {

inline constexpr int width = 4;

// Each builds on those before it.
// clang-format off
#include <gistkv/backends/onednn/simd/lanes_portable.inc>
#include <gistkv/backends/onednn/simd/lanes_plain.inc>
#include <gistkv/backends/onednn/simd/functions.inc>
#include <gistkv/backends/onednn/simd/rows.inc>
#include <gistkv/backends/onednn/simd/transpose_plain.inc>
#include <gistkv/backends/onednn/simd/dot_f32.inc>
#include <gistkv/backends/onednn/simd/attention.inc>
#include <gistkv/backends/onednn/simd/table.inc>
#include <gistkv/backends/onednn/simd/training.inc>
// clang-format on

}  // namespace gistkv::backends::onednn_detail::portable
