// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <gistkv/conformance/report.hpp>

/// What is checked on a device. The conformance suite has a translation unit an element type.

namespace gistkv::gpu_tests {

conformance::report check_bf16(bool model_shapes);
conformance::report check_f16(bool model_shapes);
conformance::report check_f32(bool model_shapes);
/// A small model step by step: fused calls, graphs and caches of q8 beside single calls.
bool check_steps();
/// A small model in training: gradients and 20 steps in bf16 beside float, and twice the same bits.
bool check_training();

}  // namespace gistkv::gpu_tests
