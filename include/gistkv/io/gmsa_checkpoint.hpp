// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/gmsa_layout.hpp>
#include <gistkv/io/low_rank_file.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/safetensors_set.hpp>
#include <gistkv/io/stored_tensor.hpp>

/// Checkpoints of the official code of GMSA (github.com/Twilightaaa/GMSA): one safetensors file
/// with encoder (LoRA beside its maps), decoder and alignment. Its own loader lets wrong files
/// pass; this one does not.

namespace gistkv::io {

/// Where a name says which layer it is of: "...layers.3.mlp..." gives 3.
inline std::optional<index_t> layer_of(std::string_view name) {
  constexpr std::string_view mark = "layers.";
  const auto at = name.find(mark);
  if (at == std::string_view::npos) return std::nullopt;
  index_t layer = 0;
  const std::string_view rest = name.substr(at + mark.size());
  const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  if (failure != std::errc{} || end == rest.data() + rest.size() || *end != '.')
    return std::nullopt;
  return layer;
}

namespace detail {

/// Layers that a part of a checkpoint has, by its highest; what lies below must then be there.
/// @throws format_error for a number that cannot be, since each layer has a tensor or more.
inline index_t layer_count(std::span<const stored_tensor> tensors, std::string_view prefix,
                           const std::string& file) {
  index_t n = 0;
  for (const stored_tensor& t : tensors) {
    if (!t.name.starts_with(prefix)) continue;
    const auto layer = layer_of(t.name);
    if (!layer) continue;
    if (*layer < 0 || *layer >= static_cast<index_t>(tensors.size())) {
      throw format_error(file + ": tensor " + quote(t.name) + " is of layer " +
                         std::to_string(*layer) + ", the file holds " +
                         std::to_string(tensors.size()) + " tensors");
    }
    n = std::max(n, *layer + 1);
  }
  return n;
}

inline void expect_one_type(std::span<const stored_tensor> tensors, const std::string& file) {
  for (const stored_tensor& t : tensors) {
    if (t.type == tensors.front().type) continue;
    throw format_error(file + ": tensor " + quote(t.name) + " is " +
                       std::string(to_string(t.type)) + ", expected " +
                       std::string(to_string(tensors.front().type)) + " as of " +
                       quote(tensors.front().name));
  }
}

inline void expect_finite(std::span<const stored_tensor> tensors, const std::string& file) {
  std::vector<float> values;
  for (const stored_tensor& t : tensors) {
    values.resize(static_cast<std::size_t>(element_count(t)));
    dequantize(t.type, t.data.data(), element_count(t), values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw format_error(file + ": tensor " + quote(t.name) + ": element " + std::to_string(i) +
                         " is " + std::to_string(values[i]) + ", expected finite numbers");
    }
  }
}

inline host_matrix as_matrix(const stored_tensor& t) {
  return {t.name, t.type, t.extents.size() == 1 ? 1 : t.extents.front(), t.extents.back(), t.data};
}

/// The model under a prefix; LoRA is left out and its maps get their plain names.
inline model::host_model take_model(std::span<const stored_tensor> tensors, std::string_view prefix,
                                    const gmsa_layout& layout, index_t n_layers,
                                    const std::string& file) {
  std::vector<stored_tensor> part;
  for (const stored_tensor& t : tensors) {
    if (!t.name.starts_with(prefix) || t.name.ends_with(gmsa_names::lora_a) ||
        t.name.ends_with(gmsa_names::lora_b)) {
      continue;
    }
    part.push_back(t);
    std::string& name = part.back().name;
    name.erase(0, prefix.size());
    if (const auto at = name.find(gmsa_names::base); at != std::string::npos) {
      name.erase(at, gmsa_names::base.size());
    }
  }
  model::model_config config = layout.config;
  config.n_layers = n_layers;
  model_assembler assembler(std::move(part), file + ": " + std::string(prefix));
  return assembler.assemble(std::move(config), hugging_face_names, layout.rules);
}

}  // namespace detail

/// The rules that a config.json would give for a model that is loaded.
inline tensor_rules rules_of(const model::host_model& m) {
  const auto rule = [](const host_matrix& x) {
    return x.empty() ? presence::absent : presence::required;
  };
  if (m.blocks.empty()) return {};
  const model::host_block& b = m.blocks.front();
  return {rule(b.query.bias), rule(b.output.bias), rule(b.gate.bias), rule(b.query_norm)};
}

/// Reads a checkpoint strictly. The numbers of layers and the rank of LoRA are the file's; all else
/// must be as config and rules of the base model say.
/// @param lora_alpha  is in no file and is not guessed; 32 in the official code
/// @throws format_error naming every tensor that is missing, unknown or mis-shaped, and a head that
/// is no copy of its tied table, another element type, a number that is not finite; argument_error
/// for lora_alpha; file_error.
inline gmsa::host_parts load_gmsa_checkpoint(const std::filesystem::path& path,
                                             const model::model_config& config,
                                             const tensor_rules& rules, double lora_alpha) {
  if (!(lora_alpha > 0) || !std::isfinite(lora_alpha)) {
    throw argument_error("gmsa checkpoint: lora_alpha is " + std::to_string(lora_alpha) +
                         ", expected a positive number (32 in the official code)");
  }
  const auto set = safetensors_set::open(path);
  const std::string file = path.string();
  std::vector<stored_tensor> tensors;
  for (const safetensors_file& f : set.files()) {
    for (const safetensors_tensor& t : f.tensors()) tensors.push_back(as_weight(t, f.name()));
  }
  gmsa_layout layout{config, rules, 0, 0, 0};
  layout.encoder_layers = detail::layer_count(tensors, gmsa_names::encoder, file);
  layout.alignment_layers = detail::layer_count(tensors, gmsa_names::alignment, file);
  if (layout.encoder_layers == 0) {
    throw format_error(file + ": holds no encoder layer, expected tensors " +
                       quote(std::string(gmsa_names::encoder) + "model.layers.0...") +
                       " of a GMSA checkpoint");
  }
  for (const stored_tensor& t : tensors) {
    if (layout.lora_rank == 0 && t.name.ends_with(gmsa_names::lora_a) && t.extents.size() == 2) {
      layout.lora_rank = t.extents.front();
    }
  }
  if (layout.lora_rank < 1) {
    throw format_error(file + ": holds no matrix of LoRA, expected " +
                       quote("...q_proj" + std::string(gmsa_names::lora_a)) +
                       " beside each linear map of the encoder");
  }
  if (layout.config.n_vocab == 0) {
    const auto* table = detail::find(tensors, std::string(gmsa_names::decoder) +
                                                  std::string(hugging_face_names.token_embedding));
    if (table != nullptr && !table->extents.empty()) {
      layout.config.n_vocab = table->extents.front();
    }
  }
  expect_tensors(gmsa_tensors(layout), tensors, file,
                 "a GMSA checkpoint of " + std::to_string(layout.encoder_layers) +
                     " encoder layers, " + std::to_string(config.n_layers) +
                     " decoder layers and LoRA of rank " + std::to_string(layout.lora_rank));
  detail::expect_one_type(tensors, file);
  detail::expect_finite(tensors, file);

  gmsa::host_parts parts;
  const auto part = [&](std::string_view prefix, index_t n_layers) {
    model::host_model m = detail::take_model(tensors, prefix, layout, n_layers, file);
    for (const safetensors_file& f : set.files()) m.storage.push_back(f.storage());
    return m;
  };
  parts.decoder = part(gmsa_names::decoder, layout.config.n_layers);
  parts.encoder = part(gmsa_names::encoder, layout.encoder_layers);
  parts.encoder_lora = read_lora(tensors, parts.encoder, gmsa_lora_names(), file);
  parts.lora_alpha = lora_alpha;
  if (layout.alignment_layers > 0) {
    parts.alignment = part(gmsa_names::alignment, layout.alignment_layers);
  }
  parts.linear = {
      detail::as_matrix(*detail::find(tensors, std::string(gmsa_names::linear) + "weight")),
      detail::as_matrix(*detail::find(tensors, std::string(gmsa_names::linear) + "bias"))};
  return parts;
}

/// The file that the official code takes from a folder: model.safetensors, else
/// adapter_model.safetensors, else pytorch_model.bin, there or in the checkpoint-N with the highest
/// N that has one. Nothing if there is none.
inline std::optional<std::filesystem::path> find_gmsa_checkpoint(
    const std::filesystem::path& directory) {
  const auto in = [](const std::filesystem::path& folder) -> std::optional<std::filesystem::path> {
    std::error_code ignored;
    for (const char* name :
         {"model.safetensors", "adapter_model.safetensors", "pytorch_model.bin"}) {
      if (std::filesystem::is_regular_file(folder / name, ignored)) return folder / name;
    }
    return std::nullopt;
  };
  if (const auto here = in(directory)) return here;
  constexpr std::string_view prefix = "checkpoint-";
  std::optional<std::filesystem::path> best;
  index_t highest = -1;
  std::error_code failure;
  for (std::filesystem::directory_iterator at(directory, failure), end; !failure && at != end;
       at.increment(failure)) {
    const std::string name = at->path().filename().string();
    if (!name.starts_with(prefix)) continue;
    index_t number = -1;
    const char* last = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + prefix.size(), last, number);
    if (error != std::errc{} || stop != last || number <= highest) continue;
    if (auto file = in(at->path())) {
      best = std::move(file);
      highest = number;
    }
  }
  return best;
}

}  // namespace gistkv::io
