// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// What the backend asks of the CUDA runtime, which this program plays itself: no device is needed.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdlib>
#include <string>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda/graphs.cuh>
#include <gistkv/backends/cuda/runtime.cuh>

namespace {

struct runtime_state {
  cudaError_t last = cudaSuccess;    ///< The thread's last error.
  cudaError_t launch = cudaSuccess;  ///< What the next launches answer.
  bool capturing = false;
  unsigned int flags = cudaStreamNonBlocking;
  int launches = 0, copies = 0, captures = 0, graph_launches = 0;
  int object = 0;  ///< Whatever a handle points to.
};
runtime_state now;

cudaError_t answer(cudaError_t code) {
  if (code != cudaSuccess) now.last = code;
  return code;
}
template <class Handle>
cudaError_t hand_out(Handle* to) {
  *to = reinterpret_cast<Handle>(&now.object);
  return cudaSuccess;
}

}  // namespace

extern "C" {
cudaError_t cudaGetLastError() {
  const cudaError_t code = now.last;
  now.last = cudaSuccess;
  return code;
}
const char* cudaGetErrorString(cudaError_t) { return "said by the test"; }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
  ++now.launches;
  return answer(now.launch);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = now.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned int* flags) {
  *flags = now.flags;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  ++now.captures;
  now.capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  now.capturing = false;
  return hand_out(graph);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t, unsigned long long) {
  return hand_out(made);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  ++now.graph_launches;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMallocHost(void** p, std::size_t n_bytes) {
  *p = std::malloc(n_bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) { return hand_out(event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t) {
  ++now.copies;
  return cudaSuccess;
}
}

namespace gistkv::backends::cuda_detail {
namespace {

cudaStream_t a_stream() { return reinterpret_cast<cudaStream_t>(&now.object); }
void some_kernel(int, const float*) {}

TEST_CASE("a launch reports its own error and no other") {
  now = {};
  now.last = cudaErrorPeerAccessAlreadyEnabled;  // Somebody else's, who may still ask for it.
  launch("some_kernel", some_kernel, 1, 32, 0, a_stream(), 3, nullptr);
  CHECK(now.launches == 1);
  CHECK(now.last == cudaErrorPeerAccessAlreadyEnabled);

  now.launch = cudaErrorInvalidConfiguration;
  std::string message;
  try {
    launch("some_kernel", some_kernel, 0, 32, 0, a_stream(), 3, nullptr);
  } catch (const backend_error& e) {
    message = e.what();
  }
  CHECK(message == "cuda: some_kernel failed with 9 (said by the test)");
}

TEST_CASE("an error that was thrown is not the thread's last one any more") {
  now = {};
  CHECK_THROWS_AS(check(answer(cudaErrorMemoryAllocation), "cudaMalloc"), backend_error);
  CHECK(now.last == cudaSuccess);
}

TEST_CASE("an upload is made, or refused where a graph would repeat it") {
  now = {};
  staging through;
  int from = 1, to = 0;
  through.upload(&to, &from, sizeof from, a_stream());
  CHECK(now.copies == 1);
  now.capturing = true;
  CHECK_THROWS_AS(through.upload(&to, &from, sizeof from, a_stream()), backend_error);
  CHECK(now.copies == 1);
}

struct step_counts {
  int calls = 0, captures = 0, graph_launches = 0;
  friend bool operator==(const step_counts&, const step_counts&) = default;
};
/// A step that comes four times.
step_counts run_steps(cudaStream_t stream) {
  step_graphs graphs;
  replay_key key;
  key.add(index_t{7});
  int calls = 0;
  for (int i = 0; i < 4; ++i) graphs.run(key, stream, [&] { ++calls; });
  return {calls, now.captures, now.graph_launches};
}

TEST_CASE("a step is captured on streams that wait for no other") {
  now = {};
  CHECK(run_steps(a_stream()) == step_counts{2, 1, 3});
  now = {};
  now.flags = cudaStreamDefault;
  CHECK(run_steps(a_stream()) == step_counts{4, 0, 0});
  now = {};
  now.capturing = true;  // By the engine.
  CHECK(run_steps(a_stream()) == step_counts{4, 0, 0});
  now = {};
  CHECK(run_steps(nullptr) == step_counts{4, 0, 0});
}

}  // namespace
}  // namespace gistkv::backends::cuda_detail
