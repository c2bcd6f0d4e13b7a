// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/eigen.hpp>
#include <cli/typed_trainer.hpp>
#include <gistkv/backends/eigen.hpp>

namespace gistkv::cli {

trainer_ptr train_eigen(int n_threads, const model::host_model& weights,
                        const model::gist_rows& gists, const train::model_options& options) {
  using backends::eigen;
  return std::make_unique<typed_trainer<eigen<float>>>(std::make_shared<eigen<float>>(n_threads),
                                                       weights, gists, options);
}

soft_trainer_ptr train_soft_eigen(int n_threads, const gmsa::host_parts& parts,
                                  const gmsa::training_options& options) {
  using backends::eigen;
  return std::make_unique<typed_soft_trainer<eigen<float>>>(
      std::make_shared<eigen<float>>(n_threads), parts, options);
}

}  // namespace gistkv::cli
