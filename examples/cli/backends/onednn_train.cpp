// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/onednn.hpp>
#include <cli/typed_trainer.hpp>
#include <gistkv/backends/onednn.hpp>

namespace gistkv::cli {

trainer_ptr train_onednn(int n_threads, const model::host_model& weights,
                         const model::gist_rows& gists, const train::model_options& options) {
  using onednn = backends::onednn<float, bf16>;
  return std::make_unique<typed_trainer<onednn>>(
      std::make_shared<onednn>(backends::onednn_options{.n_threads = n_threads}), weights, gists,
      options);
}

soft_trainer_ptr train_soft_onednn(int n_threads, const gmsa::host_parts& parts,
                                   const gmsa::training_options& options) {
  using onednn = backends::onednn<float, bf16>;
  return std::make_unique<typed_soft_trainer<onednn>>(
      std::make_shared<onednn>(backends::onednn_options{.n_threads = n_threads}), parts, options);
}

}  // namespace gistkv::cli
