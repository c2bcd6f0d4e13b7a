// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/cuda.hpp>
#include <cli/typed_trainer.hpp>
#include <gistkv/backends/cuda.cuh>
#ifdef GISTKV_CLI_NCCL
#include <gistkv/nccl/device_group.cuh>
#endif

namespace gistkv::cli {

namespace {

/// Processes of one machine take its GPUs in turn.
void choose_device() {
  using backends::cuda_detail::check;
  int n_devices = 0;
  check(cudaGetDeviceCount(&n_devices), "cudaGetDeviceCount");
  if (ranks().n_ranks() == 1 || n_devices == 0) return;
  check(cudaSetDevice(static_cast<int>(ranks().neighbour() % n_devices)), "cudaSetDevice");
}

}  // namespace

// Weights and activations in bf16; what is trained is added up in float.
trainer_ptr train_cuda(int, const model::host_model& weights, const model::gist_rows& gists,
                       const train::model_options& options) {
  using backends::cuda;
  choose_device();
  const auto be = std::make_shared<cuda<bf16>>();
  auto made = std::make_unique<typed_trainer<cuda<bf16>>>(be, weights, gists, options);
#ifdef GISTKV_CLI_NCCL
  if (ranks().n_ranks() > 1) {
    const auto group = std::make_shared<nccl::device_group>(ranks(), be->stream());
    made->add_up_by([group](auto& set, process_group&) { train::sum_gradients(set, *group); });
  }
#endif
  return made;
}

}  // namespace gistkv::cli
