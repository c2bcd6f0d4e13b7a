// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <gistkv/core/error.hpp>

/// What the backend needs of the CUDA runtime: errors, owned handles, memory that uploads pass
/// through.

namespace gistkv::backends {

/// Where the backend takes device memory from, so that an engine's pool can serve it. Calls are in
/// the order of the stream. `allocate` returns null for "no memory".
struct cuda_allocator {
  void* (*allocate)(void* context, std::size_t n_bytes, cudaStream_t stream) = nullptr;
  void (*deallocate)(void* context, void* p, std::size_t n_bytes, cudaStream_t stream) = nullptr;
  void* context = nullptr;
};

namespace cuda_detail {

/// @throws backend_error naming the expression, the code and what CUDA says to it.
inline void check(cudaError_t code, const char* expression) {
  if (code == cudaSuccess) return;
  // It is reported here; whoever asks for the thread's last error next, does not mean this one.
  static_cast<void>(cudaGetLastError());
  throw backend_error("cuda: " + std::string(expression) + " failed with " +
                      std::to_string(static_cast<int>(code)) + " (" + cudaGetErrorString(code) +
                      ")");
}
inline void check(cublasStatus_t code, const char* expression) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  throw backend_error("cuda: " + std::string(expression) + " failed with " +
                      std::to_string(static_cast<int>(code)) + " (" +
                      cublasLtGetStatusString(code) + ")");
}
/// Launches a kernel. The thread's last error, which <<<>>> would leave its own in, may be that of
/// somebody else's call before: this way a launch reports its own and takes away none.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 blocks, unsigned int n_threads,
            std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t how{};
  how.gridDim = blocks;
  how.blockDim = dim3(n_threads);
  how.dynamicSmemBytes = shared_bytes;
  how.stream = stream;
  check(cudaLaunchKernelEx(&how, kernel, std::forward<Arguments>(arguments)...), name);
}

inline void* allocate_async(void*, std::size_t n_bytes, cudaStream_t stream) {
  void* p = nullptr;
  if (cudaMallocAsync(&p, n_bytes, stream) == cudaSuccess) return p;
  static_cast<void>(cudaGetLastError());  // Reported as "no memory".
  return nullptr;
}
inline void deallocate_async(void*, void* p, std::size_t, cudaStream_t stream) {
  cudaFreeAsync(p, stream);
}
/// The memory of cudaMallocAsync.
inline cuda_allocator runtime_allocator() { return {allocate_async, deallocate_async, nullptr}; }

/// A stream that is owned, or one of the caller's.
class stream_handle {
 public:
  stream_handle() : owned_(true) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  explicit stream_handle(cudaStream_t borrowed) : stream_(borrowed) {}
  stream_handle(const stream_handle&) = delete;
  stream_handle& operator=(const stream_handle&) = delete;
  ~stream_handle() {
    if (owned_) cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  bool owned_ = false;
};

/// Page-locked memory that small uploads pass through: the caller's memory is free at once. Two
/// halves; one is filled while the copies out of the other are under way, and whoever finds it full
/// waits for these.
class staging {
 public:
  static constexpr std::size_t half_bytes = std::size_t{1} << 20;

  staging() {
    void* p = nullptr;
    check(cudaMallocHost(&p, 2 * half_bytes), "cudaMallocHost");
    memory_.reset(static_cast<std::byte*>(p));
    for (auto& event : copied_) {
      cudaEvent_t made = nullptr;
      check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      event.reset(made);
    }
  }

  static constexpr bool fits(std::size_t n_bytes) { return n_bytes <= half_bytes; }

  /// @throws backend_error if the stream is being captured: a graph would copy what lies in this
  /// memory when it is launched, which by then is of later uploads.
  void upload(void* to, const void* from, std::size_t n_bytes, cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
    if (status != cudaStreamCaptureStatusNone) {
      throw backend_error("cuda: an upload while the stream is being captured");
    }
    if (used_ + n_bytes > half_bytes) {
      check(cudaEventRecord(copied_[half_].get(), stream), "cudaEventRecord");
      half_ = 1 - half_;
      used_ = 0;
      check(cudaEventSynchronize(copied_[half_].get()), "cudaEventSynchronize");
    }
    std::byte* through = memory_.get() + half_ * half_bytes + used_;
    std::memcpy(through, from, n_bytes);
    check(cudaMemcpyAsync(to, through, n_bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    used_ += (n_bytes + 63) / 64 * 64;
  }

 private:
  struct free_host {
    void operator()(std::byte* p) const { cudaFreeHost(p); }
  };
  struct destroy_event {
    using pointer = cudaEvent_t;
    void operator()(cudaEvent_t e) const { cudaEventDestroy(e); }
  };
  std::unique_ptr<std::byte, free_host> memory_;
  std::array<std::unique_ptr<cudaEvent_t, destroy_event>, 2> copied_;
  std::size_t half_ = 0;
  std::size_t used_ = 0;
};

/// Device memory of the backend's own; the allocator and the stream must outlive it.
class device_block {
 public:
  device_block() = default;
  device_block(const cuda_allocator& from, std::size_t n_bytes, cudaStream_t stream)
      : from_(from), size_(n_bytes), stream_(stream) {
    if (n_bytes == 0) return;
    data_ = from.allocate(from.context, n_bytes, stream);
    if (data_ == nullptr) {
      throw backend_error("cuda: no device memory for " + std::to_string(n_bytes) + " bytes");
    }
  }
  device_block(device_block&& other) noexcept
      : from_(other.from_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        stream_(other.stream_) {}
  device_block& operator=(device_block&& other) noexcept {
    if (this != &other) {
      release();
      from_ = other.from_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      stream_ = other.stream_;
    }
    return *this;
  }
  ~device_block() { release(); }

  void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void release() noexcept {
    if (data_ != nullptr) from_.deallocate(from_.context, data_, size_, stream_);
    data_ = nullptr;
  }
  cuda_allocator from_;
  void* data_ = nullptr;
  std::size_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace cuda_detail
}  // namespace gistkv::backends
