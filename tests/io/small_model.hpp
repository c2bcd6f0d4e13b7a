// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>

#include <io/gguf_builder.hpp>

namespace gistkv::test {

/// A Llama of 2 layers, width 8, 2 heads of width 4 on 1 key-value head, feed-forward width 12,
/// vocabulary 10: small enough that every bit of its file can be tried.
struct small_model {
  static constexpr index_t n_layers = 2, d_model = 8, n_heads = 2, n_kv_heads = 1, head_dim = 4,
                           d_ff = 12, n_vocab = 10;

  struct tensor {
    std::string hugging_face;
    std::string gguf;
    std::vector<index_t> extents;  ///< Outermost first.
    std::vector<float> values;
    index_t heads = 0;  ///< Of a query or key, whose rows the GGUF file interleaves.
  };
  std::vector<tensor> tensors;

  explicit small_model(bool with_bias = false, bool with_norms = false) {
    random_generator random(11);
    auto add = [&](std::string hf, std::string gguf, std::vector<index_t> extents,
                   index_t heads = 0) {
      index_t n = 1;
      for (const index_t e : extents) n *= e;
      std::vector<float> values(static_cast<std::size_t>(n));
      for (float& v : values) v = static_cast<float>(random.normal());
      tensors.push_back(
          {std::move(hf), std::move(gguf), std::move(extents), std::move(values), heads});
    };
    auto linear = [&](const std::string& hf, const std::string& gguf, index_t out, index_t in,
                      bool bias, index_t heads = 0) {
      add(hf + ".weight", gguf + ".weight", {out, in}, heads);
      if (bias) add(hf + ".bias", gguf + ".bias", {out}, heads);
    };
    add("model.embed_tokens.weight", "token_embd.weight", {n_vocab, d_model});
    for (index_t i = 0; i < n_layers; ++i) {
      const std::string hf = "model.layers." + std::to_string(i) + ".";
      const std::string gguf = "blk." + std::to_string(i) + ".";
      const index_t d_query = n_heads * head_dim;
      const index_t d_key = n_kv_heads * head_dim;
      add(hf + "input_layernorm.weight", gguf + "attn_norm.weight", {d_model});
      linear(hf + "self_attn.q_proj", gguf + "attn_q", d_query, d_model, with_bias, n_heads);
      linear(hf + "self_attn.k_proj", gguf + "attn_k", d_key, d_model, with_bias, n_kv_heads);
      linear(hf + "self_attn.v_proj", gguf + "attn_v", d_key, d_model, with_bias);
      if (with_norms) {
        add(hf + "self_attn.q_norm.weight", gguf + "attn_q_norm.weight", {head_dim});
        add(hf + "self_attn.k_norm.weight", gguf + "attn_k_norm.weight", {head_dim});
      }
      linear(hf + "self_attn.o_proj", gguf + "attn_output", d_model, d_query, false);
      add(hf + "post_attention_layernorm.weight", gguf + "ffn_norm.weight", {d_model});
      linear(hf + "mlp.gate_proj", gguf + "ffn_gate", d_ff, d_model, false);
      linear(hf + "mlp.up_proj", gguf + "ffn_up", d_ff, d_model, false);
      linear(hf + "mlp.down_proj", gguf + "ffn_down", d_model, d_ff, false);
    }
    add("model.norm.weight", "output_norm.weight", {d_model});
    add("lm_head.weight", "output.weight", {n_vocab, d_model});
  }
};

/// Values of a query or key as the converter of Llama files writes them: in each head the rows, as
/// [2, head_dim / 2], are transposed.
inline std::vector<float> interleaved(const small_model::tensor& t) {
  const auto heads = static_cast<std::size_t>(t.heads);
  const auto rows = static_cast<std::size_t>(t.extents[0]);
  const std::size_t half = rows / heads / 2;
  const std::size_t width = t.values.size() / rows;
  std::vector<float> result;
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t j = 0; j < half; ++j) {
      for (std::size_t s = 0; s < 2; ++s) {
        const std::size_t row = (h * 2 + s) * half + j;
        const auto begin = t.values.begin() + static_cast<std::ptrdiff_t>(row * width);
        result.insert(result.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
      }
    }
  }
  return result;
}

struct small_gguf_options {
  std::string architecture = "llama";
  std::string omit = {};  ///< A key to leave out.
  std::uint32_t n_layers_key = small_model::n_layers;
  bool bias = false;
  bool norms = false;
  std::string name = "a small model";
};

inline gguf_builder small_gguf(const small_gguf_options& options = {}) {
  using m = small_model;
  gguf_builder b;
  const std::string a = options.architecture;
  auto u32 = [&](const std::string& key, std::uint32_t value) {
    if (key != options.omit) b.u32(key, value);
  };
  if (options.omit != "general.architecture") b.string("general.architecture", a);
  b.string("general.name", options.name);
  u32(a + ".block_count", options.n_layers_key);
  u32(a + ".context_length", 64);
  u32(a + ".embedding_length", m::d_model);
  u32(a + ".feed_forward_length", m::d_ff);
  u32(a + ".attention.head_count", m::n_heads);
  u32(a + ".attention.head_count_kv", m::n_kv_heads);
  if (a + ".attention.layer_norm_rms_epsilon" != options.omit) {
    b.f32(a + ".attention.layer_norm_rms_epsilon", 1e-5F);
  }
  b.strings("general.languages", {"en", "de"});
  for (const m::tensor& t : m(options.bias, options.norms).tensors) {
    std::vector<std::uint64_t> extents(t.extents.rbegin(), t.extents.rend());
    b.floats(t.gguf, extents, a == "llama" && t.heads != 0 ? interleaved(t) : t.values);
  }
  return b;
}

}  // namespace gistkv::test
