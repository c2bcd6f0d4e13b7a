// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include <cuda_runtime.h>
#include <nccl.h>

#include <gistkv/core/error.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/types.hpp>

namespace gistkv::nccl {

/// @throws backend_error with NCCL's own text unless a call has succeeded.
inline void check(ncclResult_t code, const char* call) {
  if (code == ncclSuccess) return;
  throw backend_error(std::string(call) + ": " + ncclGetErrorString(code) + " (" +
                      std::to_string(static_cast<int>(code)) + ")");
}

/// Processes with a GPU each that add up gradients on these, as train::DeviceGroup wants them. Sums
/// are queued on the stream of the backend that the gradients belong to. A sum has the same bits in
/// all processes; in which order it is made is NCCL's choice, by the shape of the machine.
class device_group {
 public:
  /// Collective, on the device that is current.
  /// @param processes  a train::ProcessGroup, mpi::process_group say, that brings them together;
  ///                   not needed afterwards
  /// @throws backend_error, as all calls do, also where two processes have the same device.
  template <class G>
  device_group(G& processes, cudaStream_t stream) : n_ranks_(processes.n_ranks()), stream_(stream) {
    ncclUniqueId id{};
    // Where only rank 0 has numbers, the sum over all is what rank 0 has.
    std::array<double, sizeof id.internal> bytes{};
    if (processes.rank() == 0) {
      check(ncclGetUniqueId(&id), "ncclGetUniqueId");
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<double>(static_cast<unsigned char>(id.internal[i]));
      }
    }
    processes.sum(std::span<double>(bytes));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      id.internal[i] = static_cast<char>(static_cast<unsigned char>(bytes[i]));
    }
    check(ncclCommInitRank(&comm_, static_cast<int>(n_ranks_), id,
                           static_cast<int>(processes.rank())),
          "ncclCommInitRank");
  }
  ~device_group() { ncclCommDestroy(comm_); }
  device_group(const device_group&) = delete;
  device_group& operator=(const device_group&) = delete;

  index_t n_ranks() const { return n_ranks_; }

  /// Each vector <- its sum over all processes; elements lie side by side.
  void sum_all(std::span<const vector_view<float, device_space>> vectors) {
    check(ncclGroupStart(), "ncclGroupStart");
    ncclResult_t sum = ncclSuccess;
    for (const vector_view<float, device_space>& x : vectors) {
      sum = ncclAllReduce(x.data(), x.data(), static_cast<std::size_t>(x.extent(0)), ncclFloat,
                          ncclSum, comm_, stream_);
      if (sum != ncclSuccess) break;
    }
    const ncclResult_t end = ncclGroupEnd();  // Also after an error: the thread would stay in it.
    check(sum, "ncclAllReduce");
    check(end, "ncclGroupEnd");
  }

 private:
  index_t n_ranks_;
  cudaStream_t stream_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace gistkv::nccl
