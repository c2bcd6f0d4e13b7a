// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// An engine that has a stream and a memory pool of its own runs one layer of sentence attention on
// them: no copy, no wait and no allocation happens behind its back. Exits with 77 where no GPU is.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/rows.hpp>

namespace {

using gistkv::bf16;
using gistkv::index_t;
using backend = gistkv::backends::cuda<bf16>;

/// The engine's memory: one block, handed out piece by piece.
struct pool {
  std::byte* block = nullptr;
  std::size_t size = 0;
  std::size_t used = 0;
};
void* take(void* context, std::size_t n_bytes, cudaStream_t) {
  auto& from = *static_cast<pool*>(context);
  const std::size_t begin = from.used;
  if (begin + n_bytes > from.size) return nullptr;
  from.used = (begin + n_bytes + 255) / 256 * 256;
  return from.block + begin;
}
void give_back(void*, void*, std::size_t, cudaStream_t) {}  // All at once, in the end.

constexpr index_t n_heads = 3, n_kv_heads = 1, head_dim = 64;

/// A kernel of the engine, which runs before ours on the same stream: queries, keys, values of 1.
__global__ void fill(bf16* x, index_t n) {
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = bf16(1.0F);
}

int run(cudaStream_t stream, pool& memory) {
  backend be({.stream = stream, .allocator = {take, give_back, &memory}});

  // "One. Two." with two gists behind each sentence, then an open sentence of three tokens.
  const std::vector<std::uint8_t> is_gist = {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0};
  const auto n = static_cast<index_t>(is_gist.size());
  gistkv::cache::gist_cache<backend, bf16> cache(be, {1, n_kv_heads, head_dim},
                                                 {.rule = {.n_gist = 2, .n_sink = 0}});
  const auto plan = cache.begin_append(is_gist);
  const auto rows = cache.layer(0);
  gistkv::buffer<bf16, backend> x(be, n * n_heads * head_dim);
  gistkv::buffer<bf16, backend> o(be, n * n_heads * head_dim);
  const auto on_device = [&]<class U>(const std::vector<U>& host) {
    return gistkv::buffer<U, backend>(be, std::span<const U>(host));
  };
  const auto anchor_rows = on_device(plan.anchor_rows);
  const auto local_rows = on_device(plan.local_rows);
  const auto spans = on_device(plan.spans);

  fill<<<static_cast<unsigned int>((x.size() + 255) / 256), 256, 0, stream>>>(x.data(), x.size());
  const auto queries = x.view({n, n_heads, head_dim});
  const gistkv::matrix_view<const bf16, gistkv::device_space> keys(x.data(), {n, head_dim});
  using gistkv::ops::append_rows;
  append_rows<backend, bf16, bf16>(be, rows.anchor_keys.at(0), keys, anchor_rows.view({n}));
  append_rows<backend, bf16, bf16>(be, rows.anchor_values.at(0), keys, anchor_rows.view({n}));
  append_rows<backend, bf16, bf16>(be, rows.local_keys.at(0), keys, local_rows.view({n}));
  append_rows<backend, bf16, bf16>(be, rows.local_values.at(0), keys, local_rows.view({n}));
  gistkv::workspace<backend> scratch;  // A native path needs none.
  gistkv::ops::attention<backend, bf16>(be, o.view({n, n_heads, head_dim}), queries, rows.visible,
                                        {plan.spans, spans.data()}, 0.125, scratch);
  cache.commit();

  // The engine decides when to wait. Whatever is seen, the mean of ones is one.
  for (const bf16 value : o.to_host()) {
    if (std::abs(static_cast<float>(value) - 1.0F) > 0.01F) {
      std::printf("the mean of ones is %g\n", static_cast<double>(static_cast<float>(value)));
      return 1;
    }
  }
  std::printf("%lld tokens read, %lld rows kept, %zu bytes of the engine's pool\n",
              static_cast<long long>(n), static_cast<long long>(cache.rows_held()), memory.used);
  return 0;
}

}  // namespace

int main() {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
    std::puts("SKIPPED: no CUDA device");
    return 77;
  }
  pool memory{nullptr, std::size_t{128} << 20};
  cudaStream_t stream = nullptr;
  void* block = nullptr;
  // A blocking stream would do too, but gets no graphs: what another thread does on the legacy
  // stream would spoil their recording.
  if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
      cudaMalloc(&block, memory.size) != cudaSuccess) {
    return EXIT_FAILURE;
  }
  memory.block = static_cast<std::byte*>(block);
  int status = EXIT_FAILURE;
  try {
    status = run(stream, memory);
  } catch (const std::exception& e) {
    std::puts(e.what());
  }
  cudaFree(block);
  cudaStreamDestroy(stream);
  return status;
}
