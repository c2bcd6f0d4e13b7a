// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include <ggml.h>
#include <gguf.h>

#include <gistkv/core/error.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/lora.hpp>

namespace llama_gist {

/// Writes LoRA of an adapter as the GGUF file that llama.cpp loads beside a model. Factors are
/// stored as floats, alpha / rank is llama.cpp's scale too.
/// @param c  of the model; files of architecture llama have the two components of a rotary pair
///           side by side, so the rows of B for queries and keys move as those of W did.
/// @throws backend_error if the file cannot be written.
inline void write_lora(const std::filesystem::path& path, const gistkv::model::lora& l,
                       const gistkv::model::model_config& c) {
  using gistkv::index_t;
  static const std::map<std::string_view, std::string> names = {
      {"query", "attn_q"},  {"key", "attn_k"}, {"value", "attn_v"}, {"output", "attn_output"},
      {"gate", "ffn_gate"}, {"up", "ffn_up"},  {"down", "ffn_down"}};
  std::size_t bytes = 0;
  for (const auto& f : l.factors) {
    bytes += (f.a.size() + f.b.size()) * sizeof(float) + 2 * (ggml_tensor_overhead() + 64);
  }
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> memory(
      ggml_init({.mem_size = bytes, .mem_buffer = nullptr, .no_alloc = false}), ggml_free);
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(gguf_init_empty(), gguf_free);
  gguf_set_val_str(file.get(), "general.type", "adapter");
  gguf_set_val_str(file.get(), "general.architecture", c.architecture.c_str());
  gguf_set_val_str(file.get(), "adapter.type", "lora");
  gguf_set_val_f32(file.get(), "adapter.lora.alpha", static_cast<float>(l.alpha));
  for (const auto& f : l.factors) {
    const std::string name =
        "blk." + std::to_string(f.layer) + "." + names.at(f.target) + ".weight";
    const auto add = [&](const char* suffix, index_t rows, index_t cols) {
      ggml_tensor* t = ggml_new_tensor_2d(memory.get(), GGML_TYPE_F32, cols, rows);
      ggml_set_name(t, (name + suffix).c_str());
      return t;
    };
    ggml_tensor* down = add(".lora_a", f.rank, f.cols);
    std::copy(f.a.begin(), f.a.end(), static_cast<float*>(down->data));
    ggml_tensor* up = add(".lora_b", f.rows, f.rank);
    const bool rotated = c.architecture == "llama" && (f.target == "query" || f.target == "key");
    for (index_t to = 0; to < f.rows; ++to) {
      const index_t in_head = to % c.head_dim;
      const index_t from =
          rotated ? to - in_head + in_head / 2 + in_head % 2 * (c.head_dim / 2) : to;
      std::copy_n(f.b.begin() + from * f.rank, f.rank, static_cast<float*>(up->data) + to * f.rank);
    }
    gguf_add_tensor(file.get(), down);
    gguf_add_tensor(file.get(), up);
  }
  if (!gguf_write_to_file(file.get(), path.c_str(), false)) {
    throw gistkv::backend_error("gguf: cannot write " + path.string());
  }
}

}  // namespace llama_gist
