// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/stored_tensor.hpp>
#include <gistkv/model/config.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {

/// What a format calls the parts of a model. A block's tensor is BLOCK_PREFIX + index + '.' + part
/// + ".weight" or ".bias"; the others are whole names.
struct tensor_names {
  std::string_view token_embedding;
  std::string_view final_norm;
  std::string_view head;
  std::string_view block_prefix;
  std::string_view attention_norm;
  std::string_view query;
  std::string_view key;
  std::string_view value;
  std::string_view query_norm;
  std::string_view key_norm;
  std::string_view output;
  std::string_view feed_forward_norm;
  std::string_view gate;
  std::string_view up;
  std::string_view down;
};

inline constexpr tensor_names hugging_face_names = {
    .token_embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head.weight",
    .block_prefix = "model.layers.",
    .attention_norm = "input_layernorm",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .query_norm = "self_attn.q_norm",
    .key_norm = "self_attn.k_norm",
    .output = "self_attn.o_proj",
    .feed_forward_norm = "post_attention_layernorm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
};

inline constexpr tensor_names gguf_names = {
    .token_embedding = "token_embd.weight",
    .final_norm = "output_norm.weight",
    .head = "output.weight",
    .block_prefix = "blk.",
    .attention_norm = "attn_norm",
    .query = "attn_q",
    .key = "attn_k",
    .value = "attn_v",
    .query_norm = "attn_q_norm",
    .key_norm = "attn_k_norm",
    .output = "attn_output",
    .feed_forward_norm = "ffn_norm",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
};

/// Whether a kind of tensor stands in the blocks; `optional`: in all of them or in none.
enum class presence { absent, optional, required };

struct tensor_rules {
  presence query_key_value_bias = presence::absent;
  presence output_bias = presence::absent;
  presence feed_forward_bias = presence::absent;
  presence query_key_norm = presence::absent;
};

/// Builds a model from the tensors of a file: finds each by name, checks its extents against the
/// config, and refuses what is left over, since a tensor that nobody reads would mean a model that
/// computes something else.
class model_assembler {
 public:
  /// Borrows the tensors' bytes. `file` is for messages.
  /// @throws format_error if two tensors have one name.
  model_assembler(std::vector<stored_tensor> tensors, std::string file)
      : tensors_(std::move(tensors)), file_(std::move(file)) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (!index_.emplace(tensors_[i].name, entry{i, false}).second) {
        throw format_error(file_ + ": tensor " + quote(tensors_[i].name) + " stands twice");
      }
    }
  }

  bool contains(std::string_view name) const { return index_.contains(name); }

  /// Uses a tensor up without a check of its extents; null if it is absent.
  const stored_tensor* take(std::string_view name) {
    const auto at = index_.find(name);
    if (at == index_.end()) return nullptr;
    at->second.used = true;
    return &tensors_[at->second.position];
  }

  /// @param[in] config n_vocab may be 0: then the rows of the embedding table give it.
  /// A tied model may repeat the table as its head, byte for byte; the copy is dropped.
  /// @throws format_error naming the tensor that is missing, mis-shaped, not wanted or, as the copy
  /// of a tied table, different.
  model::host_model assemble(model::model_config config, const tensor_names& names,
                             const tensor_rules& rules) {
    if (config.n_vocab == 0) config.n_vocab = row_count(names.token_embedding);
    model::host_model result;
    result.token_embedding =
        matrix(std::string(names.token_embedding), config.n_vocab, config.d_model);
    for (index_t i = 0; i < config.n_layers; ++i) {
      result.blocks.push_back(block(config, names, rules, i));
    }
    result.final_norm = vector(std::string(names.final_norm), config.d_model);
    if (!config.tied_head) {
      result.head.weight = matrix(std::string(names.head), config.n_vocab, config.d_model);
    } else if (contains(names.head)) {
      check_copy(matrix(std::string(names.head), config.n_vocab, config.d_model),
                 result.token_embedding);
    }
    expect_all_used(config);
    result.config = std::move(config);
    return result;
  }

 private:
  struct entry {
    std::size_t position = 0;
    bool used = false;
  };

  index_t row_count(std::string_view name) const {
    const auto at = index_.find(name);
    if (at == index_.end()) fail_missing(name, "");
    const auto& extents = tensors_[at->second.position].extents;
    if (extents.size() != 2) {
      throw format_error(file_ + ": tensor " + quote(name) + " has extents " +
                         extents_text(extents) + ", expected two");
    }
    return extents.front();
  }

  host_matrix find(const std::string& name, std::vector<index_t> extents) {
    const stored_tensor* tensor = take(name);
    if (tensor == nullptr) fail_missing(name, " with extents " + extents_text(extents));
    if (tensor->extents != extents) {
      throw format_error(file_ + ": tensor " + quote(name) + " has extents " +
                         extents_text(tensor->extents) + ", expected " + extents_text(extents));
    }
    return {name, tensor->type, extents.size() == 1 ? 1 : extents.front(), extents.back(),
            tensor->data};
  }

  host_matrix matrix(const std::string& name, index_t rows, index_t cols) {
    return find(name, {rows, cols});
  }
  host_matrix vector(const std::string& name, index_t n) { return find(name, {n}); }

  /// Whether block `i` has the tensor. In the first block `optional` is decided by its presence
  /// there, in the others by the first, whose name is `in_first`.
  bool expects(presence rule, const std::string& name, const std::string& in_first) const {
    if (rule == presence::required) return true;
    if (rule == presence::absent) return false;
    const bool expected = contains(in_first);
    if (!expected && contains(name)) {
      throw format_error(file_ + ": tensor " + quote(name) + " has no counterpart " +
                         quote(in_first) + ", expected it in all blocks or in none");
    }
    return expected;
  }

  model::host_block block(const model::model_config& c, const tensor_names& names,
                          const tensor_rules& rules, index_t i) {
    const std::string first = std::string(names.block_prefix) + "0.";
    const std::string here = std::string(names.block_prefix) + std::to_string(i) + ".";
    auto norm = [&](std::string_view part, index_t n) {
      return vector(here + std::string(part) + ".weight", n);
    };
    auto optional_norm = [&](std::string_view part, index_t n) {
      const std::string tail = std::string(part) + ".weight";
      return expects(rules.query_key_norm, here + tail, first + tail) ? vector(here + tail, n)
                                                                      : host_matrix{};
    };
    auto linear = [&](std::string_view part, index_t out, index_t in, presence bias) {
      model::host_linear result;
      result.weight = matrix(here + std::string(part) + ".weight", out, in);
      const std::string tail = std::string(part) + ".bias";
      if (expects(bias, here + tail, first + tail)) result.bias = vector(here + tail, out);
      return result;
    };
    const index_t d_query = c.n_heads * c.head_dim;
    const index_t d_key = c.n_kv_heads * c.head_dim;
    model::host_block b;
    b.attention_norm = norm(names.attention_norm, c.d_model);
    b.query = linear(names.query, d_query, c.d_model, rules.query_key_value_bias);
    b.key = linear(names.key, d_key, c.d_model, rules.query_key_value_bias);
    b.value = linear(names.value, d_key, c.d_model, rules.query_key_value_bias);
    b.query_norm = optional_norm(names.query_norm, c.head_dim);
    b.key_norm = optional_norm(names.key_norm, c.head_dim);
    b.output = linear(names.output, c.d_model, d_query, rules.output_bias);
    b.feed_forward_norm = norm(names.feed_forward_norm, c.d_model);
    b.gate = linear(names.gate, c.d_ff, c.d_model, rules.feed_forward_bias);
    b.up = linear(names.up, c.d_ff, c.d_model, rules.feed_forward_bias);
    b.down = linear(names.down, c.d_model, c.d_ff, rules.feed_forward_bias);
    return b;
  }

  void check_copy(const host_matrix& head, const host_matrix& table) const {
    if (head.type == table.type && std::ranges::equal(head.data, table.data)) return;
    throw format_error(file_ + ": tensor " + quote(head.name) + " differs from " +
                       quote(table.name) + ", expected a copy since the config ties them");
  }

  void expect_all_used(const model::model_config& config) const {
    std::size_t n_unknown = 0;
    std::string_view first;
    for (const auto& [name, state] : index_) {
      if (!state.used && n_unknown++ == 0) first = name;
    }
    if (n_unknown == 0) return;
    throw format_error(file_ + ": tensor " + quote(first) +
                       (n_unknown > 1 ? " and " + std::to_string(n_unknown - 1) + " more are"
                                      : std::string(" is")) +
                       " not part of a " + config.architecture + " model of " +
                       std::to_string(config.n_layers) + " layers with this config");
  }

  [[noreturn]] void fail_missing(std::string_view name, const std::string& expected) const {
    throw format_error(file_ + ": tensor " + quote(name) + " is missing, expected one" + expected);
  }

  std::vector<stored_tensor> tensors_;
  std::string file_;
  std::map<std::string, entry, std::less<>> index_;
};

}  // namespace gistkv::io
