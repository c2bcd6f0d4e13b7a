// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/cuda.hpp>
#include <cli/typed_trainer.hpp>
#include <gistkv/backends/cuda.cuh>

namespace gistkv::cli {

// Weights and activations in bf16; what is trained is added up in float.
trainer_ptr train_cuda(int, const model::host_model& weights, const model::gist_rows& gists,
                       const train::model_options& options) {
  using backends::cuda;
  return std::make_unique<typed_trainer<cuda<bf16>>>(std::make_shared<cuda<bf16>>(), weights, gists,
                                                     options);
}

}  // namespace gistkv::cli
