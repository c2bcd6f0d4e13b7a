// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cli/backend.hpp>

namespace gistkv::cli {

backend_ptr make_cuda_bf16(int n_threads);
conformance::report check_cuda_bf16(int n_threads, bool quick);

}  // namespace gistkv::cli
