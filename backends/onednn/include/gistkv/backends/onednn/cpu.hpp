// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <string_view>

#if defined(__x86_64__)
#include <gistkv/backends/onednn/x86/amx.hpp>
#include <gistkv/backends/onednn/x86/amx_codes.hpp>
#include <gistkv/backends/onednn/x86/avx2.hpp>
#include <gistkv/backends/onednn/x86/avx2_codes.hpp>
#include <gistkv/backends/onednn/x86/avx512.hpp>
#include <gistkv/backends/onednn/x86/avx512_bf16.hpp>
#include <gistkv/backends/onednn/x86/avx512_vnni.hpp>
#endif
#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/portable.hpp>
#include <gistkv/backends/onednn/quantized.hpp>

namespace gistkv::backends {

/// What a CPU can do, each including those before it. `avx2` comes with FMA and F16C; `avx512_vnni`
/// stands for AVX-512 with its products of whole numbers, as in Cascade Lake and Ice Lake;
/// `avx512_bf16` for that and products of BF16, as in Cooper Lake, Sapphire Rapids, Zen 4 and
/// later; `amx` for that and products of BF16 tiles, as in Sapphire Rapids and later.
enum class instruction_set { portable, avx2, avx512, avx512_vnni, avx512_bf16, amx };

constexpr std::string_view to_string(instruction_set set) {
  switch (set) {
    case instruction_set::portable:
      return "portable";
    case instruction_set::avx2:
      return "AVX2";
    case instruction_set::avx512:
      return "AVX-512";
    case instruction_set::avx512_vnni:
      return "AVX-512 with VNNI";
    case instruction_set::avx512_bf16:
      return "AVX-512 with VNNI and BF16";
    case instruction_set::amx:
      return "AMX";
  }
  return "unknown";
}

/// The best that this machine has.
inline instruction_set best_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (!__builtin_cpu_supports("avx512vnni")) return instruction_set::avx512;
    if (!__builtin_cpu_supports("avx512bf16")) return instruction_set::avx512_vnni;
    static const bool has_tiles = onednn_detail::amx::available();
    return has_tiles ? instruction_set::amx : instruction_set::avx512_bf16;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      onednn_detail::avx2::unpacks_f16()) {
    return instruction_set::avx2;
  }
#endif
  return instruction_set::portable;
}

namespace onednn_detail {

template <class T>
const kernels<T>& kernels_for(instruction_set set) {
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::amx:
    case instruction_set::avx512_bf16:
      return avx512_bf16::table<T>;
    case instruction_set::avx512_vnni:
    case instruction_set::avx512:
      return avx512::table<T>;
    case instruction_set::avx2:
      return avx2::table<T>;
    case instruction_set::portable:
      break;
  }
#endif
  (void)set;
  return portable::table<T>;
}

/// T is float: training computes in nothing else.
template <std::same_as<float> T>
const training_kernels& training_kernels_for(instruction_set set) {
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::amx:
    case instruction_set::avx512_bf16:
      return avx512_bf16::training_table;
    case instruction_set::avx512_vnni:
    case instruction_set::avx512:
      return avx512::training_table;
    case instruction_set::avx2:
      return avx2::training_table;
    case instruction_set::portable:
      break;
  }
#endif
  (void)set;
  return portable::training_table;
}

/// Attention whose products have factors of F where the CPU multiplies those, else floats.
template <class T, class KV, class F>
attend_function<T, KV> attend_for(instruction_set set, index_t head_dim) {
#if defined(__x86_64__)
  switch (set) {
    case instruction_set::amx:
      if constexpr (std::same_as<F, bf16>) {
        if (amx::dot_bf16::takes(head_dim)) {
          return avx512_bf16::attend<T, KV, amx::dot_bf16>;
        }
      }
      [[fallthrough]];
    case instruction_set::avx512_bf16:
      if constexpr (std::same_as<F, bf16>) {
        return avx512_bf16::attend<T, KV, avx512_bf16::dot_bf16>;
      } else {
        return avx512::attend<T, KV, avx512::dot_f32>;
      }
    case instruction_set::avx512_vnni:
    case instruction_set::avx512:
      return avx512::attend<T, KV, avx512::dot_f32>;
    case instruction_set::avx2:
      return avx2::attend<T, KV, avx2::dot_f32>;
    case instruction_set::portable:
      break;
  }
#endif
  (void)set;
  (void)head_dim;
  return portable::attend<T, KV, portable::dot_f32>;
}

/// Null where oneDNN multiplies few rows as well as many.
template <class T>
few_rows_function<T> few_rows_for(instruction_set set) {
#if defined(__x86_64__)
  if (set >= instruction_set::avx512_bf16) return avx512_bf16::few_rows<T>;
#endif
  (void)set;
  return nullptr;
}

template <class T, class W>
panel_kernels<T, W> panel_kernels_for(instruction_set set) {
#if defined(__x86_64__)
  if (set == instruction_set::avx2) return {avx2::one_panel<T, W>};
  if constexpr (std::same_as<W, bf16>) {
    const bool widens = set == instruction_set::avx512 || set == instruction_set::avx512_vnni;
    if (widens) return {avx512::one_panel<T, W>, avx512::two_panels<T, W>};
  }
#endif
  (void)set;
  return {};
}

/// Null where weights are better kept as floats.
template <class T>
const code_kernels<T>* code_kernels_for(instruction_set set) {
#if defined(__x86_64__)
  using avx512_bf16::minima_in_pairs;
  if (set >= instruction_set::avx512_bf16) return &avx512_vnni::table<T, minima_in_pairs>;
  if (set >= instruction_set::avx512_vnni) return &avx512_vnni::table<T>;
  if (set >= instruction_set::avx2) return &avx2_codes::table<T>;
#endif
  (void)set;
  return nullptr;
}

/// Null where the CPU has no tiles.
template <class T>
const tile_kernels<T>* tile_kernels_for(instruction_set set) {
#if defined(__x86_64__)
  if (set == instruction_set::amx) return &amx::code_table<T>;
#endif
  (void)set;
  return nullptr;
}

}  // namespace onednn_detail

}  // namespace gistkv::backends

/// Kernels are most of what a compiler has to do for this backend, and the same in every source
/// file. A program of many can define GISTKV_ONEDNN_SEPARATE_KERNELS for all of them, and then
/// write in one, outside any namespace,
///
///     GISTKV_ONEDNN_DEFINE_KERNELS
///
/// or its three parts in one file each, which are so compiled side by side. Without, all is inline.
#define GISTKV_ONEDNN_ROW_KERNELS(how)                                              \
  namespace gistkv::backends::onednn_detail {                                       \
  how const kernels<float>& kernels_for<float>(instruction_set);                    \
  how const kernels<bf16>& kernels_for<bf16>(instruction_set);                      \
  how const training_kernels& training_kernels_for<float>(instruction_set);         \
  how few_rows_function<float> few_rows_for<float>(instruction_set);                \
  how few_rows_function<bf16> few_rows_for<bf16>(instruction_set);                  \
  how panel_kernels<float, float> panel_kernels_for<float, float>(instruction_set); \
  how panel_kernels<float, bf16> panel_kernels_for<float, bf16>(instruction_set);   \
  how panel_kernels<bf16, bf16> panel_kernels_for<bf16, bf16>(instruction_set);     \
  how const code_kernels<float>* code_kernels_for<float>(instruction_set);          \
  how const code_kernels<bf16>* code_kernels_for<bf16>(instruction_set);            \
  how const tile_kernels<float>* tile_kernels_for<float>(instruction_set);          \
  how const tile_kernels<bf16>* tile_kernels_for<bf16>(instruction_set);            \
  }
#define GISTKV_ONEDNN_ATTENTION_KERNELS(how, T, F)                                 \
  namespace gistkv::backends::onednn_detail {                                      \
  how attend_function<T, float> attend_for<T, float, F>(instruction_set, index_t); \
  how attend_function<T, bf16> attend_for<T, bf16, F>(instruction_set, index_t);   \
  how attend_function<T, f16> attend_for<T, f16, F>(instruction_set, index_t);     \
  how attend_function<T, q8> attend_for<T, q8, F>(instruction_set, index_t);       \
  }

#define GISTKV_ONEDNN_DEFINE_ROW_KERNELS GISTKV_ONEDNN_ROW_KERNELS(template)
#define GISTKV_ONEDNN_DEFINE_FLOAT_ATTENTION GISTKV_ONEDNN_ATTENTION_KERNELS(template, float, float)
#define GISTKV_ONEDNN_DEFINE_BF16_ATTENTION              \
  GISTKV_ONEDNN_ATTENTION_KERNELS(template, float, bf16) \
  GISTKV_ONEDNN_ATTENTION_KERNELS(template, bf16, bf16)
#define GISTKV_ONEDNN_DEFINE_KERNELS   \
  GISTKV_ONEDNN_DEFINE_ROW_KERNELS     \
  GISTKV_ONEDNN_DEFINE_FLOAT_ATTENTION \
  GISTKV_ONEDNN_DEFINE_BF16_ATTENTION

#if defined(GISTKV_ONEDNN_SEPARATE_KERNELS)
GISTKV_ONEDNN_ROW_KERNELS(extern template)
GISTKV_ONEDNN_ATTENTION_KERNELS(extern template, float, float)
GISTKV_ONEDNN_ATTENTION_KERNELS(extern template, float, bf16)
GISTKV_ONEDNN_ATTENTION_KERNELS(extern template, bf16, bf16)
#endif
