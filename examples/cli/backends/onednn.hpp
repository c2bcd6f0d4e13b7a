// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cli/backend.hpp>

namespace gistkv::cli {

backend_ptr make_onednn_f32_bf16(int n_threads);
backend_ptr make_onednn_f32(int n_threads);
backend_ptr make_onednn_f16(int n_threads);
backend_ptr make_onednn_q8(int n_threads);
conformance::report check_onednn_f32_bf16(int n_threads, bool quick);
conformance::report check_onednn_f32(int n_threads, bool quick);
conformance::report check_onednn_bf16(int n_threads, bool quick);

std::unique_ptr<trainer> train_onednn(int n_threads, const model::host_model& weights,
                                      const model::gist_rows& gists,
                                      const train::model_options& options);
std::unique_ptr<soft_trainer> train_soft_onednn(int n_threads, const gmsa::host_parts& parts,
                                                const gmsa::training_options& options);

}  // namespace gistkv::cli
