// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/low_rank_file.hpp>
#include <gistkv/io/safetensors.hpp>
#include <gistkv/io/safetensors_writer.hpp>
#include <gistkv/io/tensor_list.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/config.hpp>

/// Adapters as safetensors: `gist.input` and, without a tied head, `gist.head`, [n_gist, d_model];
/// LoRA as `blocks.L.TARGET.lora_a` [rank, in] and `.lora_b` [out, rank]. The metadata says what
/// the tensors cannot: n_gist, alpha, lora_rows, the fingerprint of the base model, and the rule
/// under which the gists were trained. With lora_rows `all` or `gists` the LoRA is for these rows;
/// with `both` it is for all, and a second one for gist rows is in `.gist_lora_a` and
/// `.gist_lora_b`, with gist_alpha.

namespace gistkv::io {

using string_map = std::map<std::string, std::string, std::less<>>;

/// Targets of LoRA with the extents of their weights, [out, in].
struct adapter_target {
  std::string_view name;
  index_t rows;
  index_t cols;
};
inline std::array<adapter_target, 7> adapter_targets(const model::model_config& c) {
  const index_t q = c.n_heads * c.head_dim;
  const index_t kv = c.n_kv_heads * c.head_dim;
  return {{{"query", q, c.d_model},
           {"key", kv, c.d_model},
           {"value", kv, c.d_model},
           {"output", c.d_model, q},
           {"gate", c.d_ff, c.d_model},
           {"up", c.d_ff, c.d_model},
           {"down", c.d_model, c.d_ff}}};
}

/// Writes an adapter atomically, in bf16 or float. `metadata` is added to what the adapter says.
/// @throws argument_error for an alpha that is not positive; shape_error naming a tensor that has
///         another number of elements than its shape; as write_safetensors.
inline void write_adapter(const std::filesystem::path& path, const model::adapter& a,
                          index_t d_model, string_map metadata, bool narrow) {
  tensor_list list(narrow ? weight_type::bf16 : weight_type::f32);
  const auto add = [&](const char* name, const std::vector<float>& values) {
    list.add(name, {name, weight_type::f32, a.gists.n_gist, d_model,
                    std::as_bytes(std::span<const float>(values))});
  };
  add("gist.input", a.gists.input);
  if (!a.gists.head.empty()) add("gist.head", a.gists.head);
  const auto add_lora = [&](const model::lora& l, const std::string& kind) {
    if (l.empty()) return;
    for (const model::low_rank& f : l.factors) {
      const std::string name = "blocks." + std::to_string(f.layer) + "." + f.target + "." + kind;
      add_low_rank(list, f, name + "lora_a", name + "lora_b");
    }
    metadata[kind + "alpha"] = detail::alpha_text(l.alpha);
  };
  metadata["format"] = "gistkv-adapter";
  metadata["n_gist"] = std::to_string(a.gists.n_gist);
  const bool both = !a.on_all_rows.empty() && !a.on_gist_rows.empty();
  add_lora(a.on_all_rows, "");
  add_lora(a.on_gist_rows, both ? "gist_" : "");
  if (both) {
    metadata["lora_rows"] = "both";
  } else if (!a.on_all_rows.empty() || !a.on_gist_rows.empty()) {
    metadata["lora_rows"] = a.on_all_rows.empty() ? "gists" : "all";
  }
  write_safetensors(path, list.tensors(), metadata);
}

namespace detail {

inline const std::string& adapter_fact(const safetensors_file& file, std::string_view key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    throw format_error(file.name() + ": metadata " + quote(key) + " is missing");
  }
  return found->second;
}

/// The LoRA of a kind ("" or "gist_"); the names of its tensors are added to `known`.
inline model::lora read_adapter_lora(const safetensors_file& file,
                                     const model::model_config& config, const std::string& kind,
                                     std::set<std::string, std::less<>>& known) {
  model::lora l;
  for (index_t layer = 0; layer < config.n_layers; ++layer) {
    for (const adapter_target& t : adapter_targets(config)) {
      const std::string map = "blocks." + std::to_string(layer) + "." + std::string(t.name) + ".";
      const std::string a = map + kind + "lora_a";
      const std::string b = map + kind + "lora_b";
      if (file.find_tensor(a) == nullptr && file.find_tensor(b) == nullptr) continue;
      l.factors.push_back(read_low_rank(as_weight(file.tensor(a), file.name()),
                                        as_weight(file.tensor(b), file.name()), layer, t.name,
                                        t.rows, t.cols, file.name()));
      known.insert({a, b});
    }
  }
  if (l.empty()) return l;
  const std::string& alpha = adapter_fact(file, kind + "alpha");
  const auto end = std::from_chars(alpha.data(), alpha.data() + alpha.size(), l.alpha);
  if (end.ec != std::errc() || end.ptr != alpha.data() + alpha.size() || !(l.alpha > 0) ||
      !std::isfinite(l.alpha)) {
    throw format_error(file.name() + ": metadata " + quote(kind + "alpha") + " is " + quote(alpha) +
                       ", expected a positive number");
  }
  return l;
}

}  // namespace detail

/// Number of gists a sentence in an adapter. @throws format_error.
inline index_t adapter_gists(const safetensors_file& file) {
  const safetensors_tensor& input = file.tensor("gist.input");
  if (input.extents.size() != 2 || input.extents[0] < 1) {
    throw format_error(file.name() + ": tensor 'gist.input' has shape " +
                       extents_text(input.extents) + ", expected [gists, d_model]");
  }
  const auto said = file.metadata().find("n_gist");
  if (said != file.metadata().end() && said->second != std::to_string(input.extents[0])) {
    throw format_error(file.name() + ": metadata 'n_gist' is " + quote(said->second) +
                       ", tensor 'gist.input' has " + std::to_string(input.extents[0]) + " rows");
  }
  return input.extents[0];
}

/// The layout that an adapter was trained on: what its gists know how to read.
struct adapter_layout {
  sentence_rule rule;
  std::string segmenter;
};

/// Metadata `recent`, `sink` and `segmenter`; what is absent has the paper's value: 0, 1 and
/// `paper`. @throws format_error.
inline adapter_layout read_adapter_layout(const safetensors_file& file) {
  const auto said = [&](const char* key, index_t otherwise) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) return otherwise;
    const std::string& text = found->second;
    index_t n = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (code != std::errc() || end != text.data() + text.size() || n < 0) {
      throw format_error(file.name() + ": metadata " + quote(key) + " is " + quote(text) +
                         ", expected a number, 0 or more");
    }
    return n;
  };
  const auto segmenter = file.metadata().find("segmenter");
  return {{adapter_gists(file), said("recent", 0), said("sink", 1)},
          segmenter == file.metadata().end() ? "paper" : segmenter->second};
}

/// Reads an adapter for a model of `config`. Every tensor must be known and of the right shape, and
/// factors come in pairs. @throws format_error naming tensor, found and wanted.
inline model::adapter read_adapter(const safetensors_file& file,
                                   const model::model_config& config) {
  model::adapter a;
  a.gists.n_gist = adapter_gists(file);
  const auto gists = [&](const safetensors_tensor& t) {
    return stored_values(as_weight(t, file.name()), a.gists.n_gist, config.d_model, file.name());
  };
  a.gists.input = gists(file.tensor("gist.input"));
  if (const auto* head = file.find_tensor("gist.head")) a.gists.head = gists(*head);
  std::set<std::string, std::less<>> known;
  model::lora plain = detail::read_adapter_lora(file, config, "", known);
  a.on_gist_rows = detail::read_adapter_lora(file, config, "gist_", known);
  for (const safetensors_tensor& tensor : file.tensors()) {
    if (tensor.name == "gist.input" || tensor.name == "gist.head") continue;
    if (known.contains(tensor.name)) continue;
    throw format_error(file.name() + ": tensor " + quote(tensor.name) +
                       " is unknown, expected gist.input, gist.head and blocks.L.TARGET.lora_a, "
                       ".lora_b, .gist_lora_a and .gist_lora_b of layers below " +
                       std::to_string(config.n_layers));
  }
  if (known.empty()) return a;
  const std::string& rows = detail::adapter_fact(file, "lora_rows");
  const bool both = rows == "both";
  if (!both && rows != "all" && rows != "gists") {
    throw format_error(file.name() + ": metadata 'lora_rows' is " + quote(rows) +
                       ", expected all, gists or both");
  }
  if (plain.empty() || both == a.on_gist_rows.empty()) {
    throw format_error(file.name() + ": metadata 'lora_rows' is " + quote(rows) +
                       ", but there is " + (plain.empty() ? "no" : "a") + " tensor .lora_a and " +
                       (a.on_gist_rows.empty() ? "no" : "a") + " tensor .gist_lora_a");
  }
  (rows == "gists" ? a.on_gist_rows : a.on_all_rows) = std::move(plain);
  return a;
}

}  // namespace gistkv::io
