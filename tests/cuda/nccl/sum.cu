// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// gistkv_test_nccl, by itself or under mpirun with a GPU for each process: gradients that were
// added up on the GPUs beside those that went through the host. Exit status: 0 passed, 77 there are
// not as many devices as processes, else failed.

#include <cmath>
#include <cstdio>
#include <exception>
#include <span>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/core/random.hpp>
#include <gistkv/nccl/device_group.cuh>
#include <gistkv/train/process_group.hpp>
#ifdef GISTKV_TEST_MPI
#include <gistkv/mpi/process_group.hpp>
#endif

namespace gistkv {
namespace {

using backend = backends::cuda<bf16>;
static_assert(train::DeviceGroup<nccl::device_group, backend, bf16>);

/// Gradients of this process, which are the same each time.
void fill(train::parameter_set<backend, bf16>& set, index_t rank) {
  random_generator random(11 + static_cast<std::uint64_t>(rank));
  for (std::size_t i = 0; i < set.size(); ++i) {
    std::vector<float> x(static_cast<std::size_t>(set[i].gradient.size()));
    for (float& v : x) v = static_cast<float>(random.normal());
    set.backend().upload(set[i].gradient.data(), x.data(), x.size() * sizeof(float));
  }
}
std::vector<float> gradients(const train::parameter_set<backend, bf16>& set) {
  std::vector<float> all;
  for (std::size_t i = 0; i < set.size(); ++i) {
    const auto x = set[i].gradient.to_host();
    all.insert(all.end(), x.begin(), x.end());
  }
  return all;
}

/// Sums of floats in another order: the same to within roundings, the constant tensor to the bit.
template <class G>
bool check(G& processes) {
  backend be;
  train::parameter_set<backend, bf16> set(be);
  for (const index_t rows : {1, 3, 1000, 2, 70}) {
    const std::vector<float> values(static_cast<std::size_t>(rows * 37), 0.5F);
    set.add("p", train::parameter_kind::lora, rows, 37, values);
  }
  set[3].trained = false;
  fill(set, processes.rank());
  const std::vector<float> before = gradients(set);
  train::sum_gradients(set, processes);
  const std::vector<float> want = gradients(set);
  fill(set, processes.rank());
  nccl::device_group group(processes, be.stream());
  train::sum_gradients(set, group);
  const std::vector<float> found = gradients(set);
  const double most = 1e-6 * static_cast<double>(processes.n_ranks());
  double worst = 0.0, changed = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::fmax(worst, std::fabs(double{found[i]} - double{want[i]}));
    changed = std::fmax(changed, std::fabs(double{found[i]} - double{before[i]}));
  }
  // One process adds nothing; several change all but what is not trained.
  const bool passed = worst <= most && (changed > 0.1) == (processes.n_ranks() > 1);
  if (processes.rank() == 0 || !passed) {
    std::printf("%d processes, rank %d: greatest difference %.3g, at most %.3g%s\n",
                static_cast<int>(processes.n_ranks()), static_cast<int>(processes.rank()), worst,
                most, passed ? "" : "  FAILED");
  }
  return passed;
}

/// @return an exit status
template <class G>
int run(G& processes) {
  int n_devices = 0;
  const cudaError_t code = cudaGetDeviceCount(&n_devices);
  if (code != cudaSuccess || n_devices < processes.n_ranks()) {
    std::printf("SKIPPED: %d CUDA devices for %d processes (%s)\n", n_devices,
                static_cast<int>(processes.n_ranks()), cudaGetErrorString(code));
    return 77;
  }
  backends::cuda_detail::check(cudaSetDevice(static_cast<int>(processes.rank())), "cudaSetDevice");
  return check(processes) ? 0 : 1;
}

}  // namespace
}  // namespace gistkv

int main(int argc, char** argv) {
  int status = 1;
  try {
#ifdef GISTKV_TEST_MPI
    MPI_Init(&argc, &argv);
    {
      gistkv::mpi::process_group processes;
      status = gistkv::run(processes);
    }
    MPI_Finalize();
#else
    static_cast<void>(argc);
    static_cast<void>(argv);
    gistkv::train::single_process alone;
    status = gistkv::run(alone);
#endif
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
  }
  return status;
}
