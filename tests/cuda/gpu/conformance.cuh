// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <gistkv/conformance/report.hpp>

/// The conformance suite on the device, one translation unit an element type.

namespace gistkv::gpu_tests {

conformance::report check_bf16(bool model_shapes);
conformance::report check_f16(bool model_shapes);
conformance::report check_f32(bool model_shapes);

}  // namespace gistkv::gpu_tests
