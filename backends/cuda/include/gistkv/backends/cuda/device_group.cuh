// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/backends/cuda/kernels.cuh>

/// The group G of attention_softmax.hpp on a device: what the kernels ask for, as instructions of
/// sm_80 and up. A lane sees its own registers; `each` is a call.

namespace gistkv::backends::cuda_detail {

template <int Lanes>
class device_group {
 public:
  static constexpr int lanes = Lanes;

  template <class V, int N>
  struct registers {
    V values[N];
    __device__ V& operator()(int, int i) { return values[i]; }
  };

  __device__ explicit device_group(void* shared)
      : generic_(static_cast<std::byte*>(shared)),
        shared_(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))) {}

  /// Of the group in its block.
  __device__ int index() const { return static_cast<int>(threadIdx.x) / Lanes; }
  template <class F>
  __device__ void each(F&& f) {
    f(static_cast<int>(threadIdx.x) % Lanes);
  }

  __device__ static float minus_infinity() { return -__int_as_float(0x7f800000); }
  __device__ static float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ static float log(float x) { return logf(x); }
  __device__ static float rsqrt(float x) { return rsqrtf(x); }
  __device__ static void rotation(std::int32_t position, float frequency, float& sine,
                                  float& cosine) {
    cuda_detail::rotation(position, frequency, sine, cosine);
  }
  __device__ static float activate(float x, activation_kind kind) {
    return cuda_detail::activate(x, kind);
  }
  template <class T>
  __device__ static float to_float(T x) {
    return cuda_detail::to_float(x);
  }
  template <class T>
  __device__ static std::uint32_t pack(float low, float high) {
    std::uint32_t pair;
    if constexpr (std::same_as<T, bf16>) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    } else {
      static_assert(std::same_as<T, f16>);
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    }
    return pair;
  }
  /// Byte a of x and byte b of y, signed, as two numbers of T, which all of them are.
  template <class T>
  __device__ static std::uint32_t pack_levels(std::uint32_t x, int a, std::uint32_t y, int b) {
    x ^= 0x80808080U;  // level + 128
    y ^= 0x80808080U;
    if constexpr (std::same_as<T, f16>) {
      // 0x6400 is 1024, whose last bit counts 1.
      const auto selector = static_cast<unsigned int>(a | (4 + b) << 8);
      const std::uint32_t biased = (__byte_perm(x, y, selector) & 0x00ff00ffU) | 0x64006400U;
      const __half2 levels =
          __hsub2(reinterpret_cast<const __half2&>(biased), __float2half2_rn(1152.0F));
      return reinterpret_cast<const std::uint32_t&>(levels);
    } else {
      // 0x4b000000 is 2^23, of which the same holds in float.
      const auto level = [](std::uint32_t word, int byte) {
        const auto selector = 0x7440U | static_cast<unsigned int>(byte);
        return __uint_as_float(__byte_perm(word, 0x4b000000U, selector)) - 8388736.0F;
      };
      return pack<T>(level(x, a), level(y, b));
    }
  }
  template <class T>
  __device__ static std::uint32_t load_pair(const T* from) {
    return __ldg(reinterpret_cast<const std::uint32_t*>(from));
  }
  /// f(i, word i) of 16 bytes.
  template <class T, class F>
  __device__ static void load_words(const T* from, F&& f) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
    f(0, words.x);
    f(1, words.y);
    f(2, words.z);
    f(3, words.w);
  }
  /// 16 bytes that this kernel may write too.
  template <class T>
  __device__ static void load_vector(const T* from, std::uint32_t (&words)[4]) {
    const uint4 x = *reinterpret_cast<const uint4*>(from);
    words[0] = x.x;
    words[1] = x.y;
    words[2] = x.z;
    words[3] = x.w;
  }
  template <class T>
  __device__ static void store_vector(T* to, const std::uint32_t (&words)[4]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
  template <class T>
  __device__ static void store_pair(T* to, std::uint32_t pair) {
    *reinterpret_cast<std::uint32_t*>(to) = pair;
  }
  template <class T>
  __device__ static void store(T* to, float value) {
    *to = from_float<T>(value);
  }

  template <int N>
  __device__ void quad_max(registers<float, N>& x) {
    for (int i = 0; i < N; ++i) {
      x.values[i] = fmaxf(x.values[i], __shfl_xor_sync(all_lanes, x.values[i], 1));
      x.values[i] = fmaxf(x.values[i], __shfl_xor_sync(all_lanes, x.values[i], 2));
    }
  }
  template <int N>
  __device__ void quad_sum(registers<float, N>& x) {
    for (int i = 0; i < N; ++i) {
      x.values[i] += __shfl_xor_sync(all_lanes, x.values[i], 1);
      x.values[i] += __shfl_xor_sync(all_lanes, x.values[i], 2);
    }
  }
  __device__ void warp_max(registers<float, 1>& x) {
    for (int step = 16; step > 0; step /= 2) {
      x.values[0] = fmaxf(x.values[0], __shfl_xor_sync(all_lanes, x.values[0], step));
    }
  }
  template <class V>
  __device__ void warp_sum(registers<V, 1>& x) {
    for (int step = 16; step > 0; step /= 2) {
      x.values[0] += __shfl_xor_sync(all_lanes, x.values[0], step);
    }
  }
  template <class V>
  __device__ V from_lane(registers<V, 1>& x, int lane) {
    if constexpr (std::is_pointer_v<V>) {
      return reinterpret_cast<V>(
          __shfl_sync(all_lanes, reinterpret_cast<unsigned long long>(x.values[0]), lane));
    } else {
      return __shfl_sync(all_lanes, x.values[0], lane);
    }
  }
  template <class V, class M>
  __device__ int least_of(registers<V, 1>& x, int M::*member) {
    return __reduce_min_sync(all_lanes, x.values[0].*member);
  }
  template <class V, class M>
  __device__ int greatest_of(registers<V, 1>& x, int M::*member) {
    return __reduce_max_sync(all_lanes, x.values[0].*member);
  }

  template <class T, int C, int A, int B>
  __device__ void multiply(registers<float, C>& c, int c0, registers<std::uint32_t, A>& a, int a0,
                           registers<std::uint32_t, B>& b, int b0) {
    float* to = c.values + c0;
    const std::uint32_t* left = a.values + a0;
    const std::uint32_t* right = b.values + b0;
    if constexpr (std::same_as<T, bf16>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
          "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(to[0]), "+f"(to[1]), "+f"(to[2]), "+f"(to[3])
          : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
    } else {
      static_assert(std::same_as<T, f16>);
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
          "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
          : "+f"(to[0]), "+f"(to[1]), "+f"(to[2]), "+f"(to[3])
          : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
    }
  }

  template <class F>
  __device__ void load_matrices(registers<std::uint32_t, 4>& to, F&& address) {
    const std::uint32_t from = shared_ + address(static_cast<int>(threadIdx.x) % 32);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.values[0]), "=r"(to.values[1]), "=r"(to.values[2]), "=r"(to.values[3])
                 : "r"(from)
                 : "memory");
  }
  template <class F>
  __device__ void load_matrices_transposed(registers<std::uint32_t, 4>& to, F&& address) {
    const std::uint32_t from = shared_ + address(static_cast<int>(threadIdx.x) % 32);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.values[0]), "=r"(to.values[1]), "=r"(to.values[2]), "=r"(to.values[3])
                 : "r"(from)
                 : "memory");
  }

  __device__ void copy_async(std::uint32_t to, const void* from, int n_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_ + to), "l"(from),
                 "r"(n_bytes)
                 : "memory");
  }
  __device__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int N>
  __device__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
  }

  __device__ void sync_block() { __syncthreads(); }
  __device__ void sync_warp() { __syncwarp(); }
  template <class V>
  __device__ V* shared(std::uint32_t offset) {
    return reinterpret_cast<V*>(generic_ + offset);
  }
  __device__ void publish() { __threadfence(); }
  __device__ unsigned int count_up(unsigned int* counter) { return atomicAdd(counter, 1U); }

 protected:
  static constexpr unsigned int all_lanes = 0xffffffffU;
  std::byte* generic_;
  std::uint32_t shared_;  ///< The same memory, as its own instructions address it.
};

}  // namespace gistkv::backends::cuda_detail
