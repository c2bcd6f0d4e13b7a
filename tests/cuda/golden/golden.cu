// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The CUDA backend on a real model: in float it meets the goldens as the reference does.
#include <doctest/doctest.h>

#include <gistkv/backends/cuda.cuh>

#include "golden/cache_checks.hpp"
#include "golden/forward_checks.hpp"
#include "golden/train_checks.hpp"

namespace gistkv::test {
namespace {

using exact = backends::cuda<float>;

bool device_is_there() {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) == cudaSuccess && n_devices > 0) return true;
  skip("no CUDA device");
  return false;
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("cuda in float: parts D, E and F") {
  if (!device_is_there()) return;
  check_causal_forward<exact>();
  check_book<exact>();
  check_greedy<exact>();
  check_sentence_runs<exact>(false);
  check_compaction<exact>();
}

TEST_CASE("cuda in float: part G") {
  if (!device_is_there()) return;
  check_gradients<exact>(1e-4);
  check_gist_training<exact>();
  check_lora_training<exact>();
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
