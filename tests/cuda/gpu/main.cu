// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// gistkv_test_gpu [--quick] [f32|bf16|f16|steps|training ...]: the conformance suite on the device
// that is there, a small model step by step, and one in training.
// Exit status: 0 all passed, 77 there is no device, else failed.

#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <cuda/gpu/conformance.cuh>

int main(int argc, char** argv) {
  using namespace gistkv;
  int n_devices = 0;
  const cudaError_t code = cudaGetDeviceCount(&n_devices);
  if (code != cudaSuccess || n_devices == 0) {
    std::printf("SKIPPED: no CUDA device (%s)\n", cudaGetErrorString(code));
    return 77;
  }
  bool model_shapes = true;
  std::vector<std::string> types;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      model_shapes = false;
    } else {
      types.emplace_back(argv[i]);
    }
  }
  if (types.empty()) types = {"f32", "bf16", "f16", "steps", "training"};
  bool passed = true;
  for (const std::string& type : types) {
    if (type == "steps" || type == "training") {
      try {
        passed =
            (type == "steps" ? gpu_tests::check_steps() : gpu_tests::check_training()) && passed;
      } catch (const std::exception& e) {
        std::cout << type << ": " << e.what() << std::endl;
        passed = false;
      }
      continue;
    }
    conformance::report (*check)(bool) = type == "f32"    ? gpu_tests::check_f32
                                         : type == "bf16" ? gpu_tests::check_bf16
                                         : type == "f16"  ? gpu_tests::check_f16
                                                          : nullptr;
    if (check == nullptr) {
      std::printf("no check %s: f32, bf16, f16, steps or training\n", type.c_str());
      return 2;
    }
    try {
      const conformance::report report = check(model_shapes);
      std::cout << type << "\n" << conformance::format(report) << std::endl;
      passed = passed && report.passed();
    } catch (const std::exception& e) {
      std::cout << type << ": " << e.what() << std::endl;
      passed = false;
    }
  }
  return passed ? 0 : 1;
}
