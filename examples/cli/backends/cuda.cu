// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/backends/cuda.hpp>

#include <cli/trainer.hpp>
#include <cli/typed_backend.hpp>
#include <gistkv/backends/cuda.cuh>

namespace gistkv::cli {

built_backend this_backend() {
  using backends::cuda;
  static constexpr cache_kind kinds[] = {{"bf16", make_cuda_bf16}};
  static constexpr checked_form forms[] = {{"bf16", "bf16", check_cuda_bf16}};
  return {cuda<bf16>::name, kinds,  forms, support_table<cuda<float>, cuda<bf16>, cuda<f16>>,
          train_cuda,       nullptr};
}

}  // namespace gistkv::cli
