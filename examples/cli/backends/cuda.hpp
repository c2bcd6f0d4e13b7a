// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cli/backend.hpp>

namespace gistkv::cli {

backend_ptr make_cuda_bf16(int n_threads);
conformance::report check_cuda_bf16(int n_threads, bool quick);

std::unique_ptr<trainer> train_cuda(int n_threads, const model::host_model& weights,
                                    const model::gist_rows& gists,
                                    const train::model_options& options);

}  // namespace gistkv::cli
