// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <type_traits>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/runtime.cuh>
#include <gistkv/core/replay.hpp>

/// Rows of launches that are launched again as one CUDA graph.

namespace gistkv::backends::cuda_detail {

/// The graphs of one caller, by what they were told. Calls under a key are made one by one the
/// first time, which also loads what they need; the second time they are captured, and from then on
/// one launch stands for them.
class step_graphs {
 public:
  /// Launches of f on the stream; f must allocate, upload and wait for nothing. A stream that
  /// cannot be captured, or that an engine is capturing itself, gets the launches one by one.
  template <class F>
  void run(const replay_key& key, cudaStream_t stream, F&& f) {
    if (!can_capture(stream)) return f();
    const auto known = graphs_.find(key);
    if (known == graphs_.end()) {
      f();
      if (graphs_.size() >= most_graphs) forget(stream);
      graphs_.emplace(key, nullptr);
      return;
    }
    if (known->second == nullptr) known->second = captured(stream, f);
    check(cudaGraphLaunch(known->second.get(), stream), "cudaGraphLaunch");
  }

 private:
  /// Of decode steps and closes, at a few capacities of a few caches.
  static constexpr std::size_t most_graphs = 64;

  struct destroy {
    using pointer = cudaGraphExec_t;
    void operator()(cudaGraphExec_t g) const { cudaGraphExecDestroy(g); }
  };
  using owned_graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, destroy>;

  /// Streams that wait for the legacy stream cannot: whatever another thread does on that during a
  /// capture would fail, and the capture with it.
  static bool can_capture(cudaStream_t stream) {
    if (stream == nullptr || stream == cudaStreamLegacy) return false;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone) return false;
    unsigned int flags = 0;
    check(cudaStreamGetFlags(stream, &flags), "cudaStreamGetFlags");
    return (flags & cudaStreamNonBlocking) != 0;
  }

  template <class F>
  static owned_graph captured(cudaStream_t stream, F&& f) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      f();
    } catch (...) {
      // The stream must work again, whatever state the capture is in.
      static_cast<void>(cudaStreamEndCapture(stream, &graph));
      if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
      static_cast<void>(cudaGetLastError());
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    cudaGraphExec_t made = nullptr;
    const cudaError_t code = cudaGraphInstantiate(&made, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(code, "cudaGraphInstantiate");
    return owned_graph(made);
  }

  /// Graphs may be under way.
  void forget(cudaStream_t stream) {
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    graphs_.clear();
  }

  std::map<replay_key, owned_graph> graphs_;
};

}  // namespace gistkv::backends::cuda_detail
