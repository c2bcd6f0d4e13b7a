// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/gmsa/sample.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/io/fingerprint.hpp>
#include <gistkv/io/gmsa_checkpoint.hpp>
#include <gistkv/io/gmsa_checkpoint_writer.hpp>
#include <gistkv/io/gmsa_layout.hpp>
#include <gistkv/io/low_rank_file.hpp>
#include <gistkv/io/safetensors.hpp>

/// What training changed, and no more: a safetensors file beside the base model.
///   encoder.layers.I.MAP.lora_A [r, in], .lora_B [out, r]   for every map of every encoder layer
///   encoder.slots [n, d_model]                              where metadata merging is slots
///   alignment.layers.J. ... and alignment.norm.weight, or alignment.linear.weight and .bias
///   decoder.layers.I.MAP.weight                             only maps that differ from the base
/// with the names of Hugging Face for maps and norms; and metadata format, base, encoder_layers,
/// alignment_layers, alignment (none, or nothing), merging, lora_alpha (0 without LoRA) and rates.
/// Readers refuse a merging that they do not know, and tensors that they do not expect.

namespace gistkv::io {

inline constexpr std::string_view gmsa_adapter_format = "gistkv gmsa adapter 1";

struct gmsa_adapter {
  gmsa::host_parts parts;
  std::vector<index_t> rates;  ///< That it was trained for; empty: not said.
};

namespace detail {

/// A number in metadata. @throws format_error.
template <class Number>
Number metadata_number(const safetensors_file& file, std::string_view key) {
  const auto at = file.metadata().find(key);
  Number value{};
  if (at != file.metadata().end()) {
    const std::string& text = at->second;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure == std::errc{} && end == text.data() + text.size()) return value;
  }
  throw format_error(file.name() + ": metadata " + quote(key) + " is " +
                     (at == file.metadata().end() ? "missing" : quote(at->second)) +
                     ", expected a number");
}

inline std::string base_text(std::uint64_t fingerprint) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += digits[(fingerprint >> shift) & 15U];
  return text;
}

/// Tensors of one block under `before`.
inline void add_block_names(std::vector<named_extents>& all, const std::string& before,
                            const model::model_config& c, const tensor_rules& rules) {
  for (const block_map& m : block_maps(c, rules)) {
    all.push_back({before + std::string(m.name) + ".weight", {m.out, m.in}});
    if (m.bias) all.push_back({before + std::string(m.name) + ".bias", {m.out}});
  }
  const auto norm = [&](std::string_view part, index_t width) {
    all.push_back({before + std::string(part) + ".weight", {width}});
  };
  if (rules.query_key_norm == presence::required) {
    norm(hugging_face_names.query_norm, c.head_dim);
    norm(hugging_face_names.key_norm, c.head_dim);
  }
  norm(hugging_face_names.attention_norm, c.d_model);
  norm(hugging_face_names.feed_forward_norm, c.d_model);
}

inline lora_names adapter_lora_names() { return {"encoder.layers.", ".lora_A", ".lora_B"}; }

inline std::string merging_name(const gmsa::host_parts& parts) {
  if (!parts.slots.empty()) return "slots";
  return parts.merging == gmsa::merging::last ? "last" : "mean";
}

inline std::string layer_name(const char* part, std::size_t i) {
  return std::string(part) + ".layers." + std::to_string(i) + ".";
}

}  // namespace detail

/// Rates that an adapter was trained for. @throws format_error.
inline std::vector<index_t> gmsa_adapter_rates(const safetensors_file& file) {
  const auto at = file.metadata().find("rates");
  if (at == file.metadata().end() || at->second.empty()) return {};
  try {
    return gmsa::parse_rates(at->second);
  } catch (const argument_error& failure) {
    throw format_error(file.name() + ": metadata 'rates': " + failure.what());
  }
}

namespace detail {

inline bool same_matrix(const host_matrix& a, const host_matrix& b) {
  return a.type == b.type && a.rows == b.rows && std::ranges::equal(a.data, b.data);
}

/// An adapter has no place for anything else that differs from the base. @throws argument_error.
inline void expect_base(const model::host_model& part, const model::host_model& base,
                        const std::string& name, bool maps_may_differ) {
  const auto expect = [&name](bool same, const std::string& what) {
    if (same) return;
    throw argument_error("gmsa adapter: " + what + " of the " + name +
                         " is not that of the base model, which only a checkpoint can hold");
  };
  const auto missing_or_same = [](const host_matrix& a, const host_matrix& b) {
    return a.empty() || same_matrix(a, b);
  };
  expect(missing_or_same(part.token_embedding, base.token_embedding), "the table");
  expect(missing_or_same(part.head.weight, base.head.weight), "the head");
  expect(same_matrix(part.final_norm, base.final_norm), "the final norm");
  for (std::size_t i = 0; i < part.blocks.size(); ++i) {
    const model::host_block& a = part.blocks[i];
    const model::host_block& b = base.blocks[i];
    const std::string layer = " in layer " + std::to_string(i);
    expect(same_matrix(a.attention_norm, b.attention_norm) &&
               same_matrix(a.feed_forward_norm, b.feed_forward_norm) &&
               same_matrix(a.query_norm, b.query_norm) && same_matrix(a.key_norm, b.key_norm),
           "a norm" + layer);
    const auto found = model::linear_maps(a);
    const auto want = model::linear_maps(b);
    for (std::size_t j = 0; j < found.size(); ++j) {
      expect(same_matrix(found[j].map->bias, want[j].map->bias),
             std::string(found[j].hugging_face) + ".bias" + layer);
      expect(maps_may_differ || same_matrix(found[j].map->weight, want[j].map->weight),
             std::string(found[j].hugging_face) + layer);
    }
  }
}

}  // namespace detail

/// Whether a safetensors file says of itself that it is such an adapter.
inline bool is_gmsa_adapter(const safetensors_file& file) {
  const auto at = file.metadata().find("format");
  return at != file.metadata().end() && at->second.starts_with("gistkv gmsa adapter");
}

/// Writes what differs from the base model. @throws argument_error for another type than f32, bf16
/// or f16, LoRA for some encoder layers only, or a difference that the file has no place for;
/// file_error.
inline void write_gmsa_adapter(const std::filesystem::path& path, const gmsa_adapter& adapter,
                               const model::host_model& base, weight_type type) {
  const gmsa::host_parts& parts = adapter.parts;
  detail::expect_base(parts.encoder, base, "encoder", false);
  detail::expect_base(parts.decoder, base, "decoder", true);
  tensor_list list(type);
  if (!parts.encoder_lora.empty()) {
    add_lora(list, parts.encoder_lora, parts.encoder, detail::adapter_lora_names());
  }
  if (!parts.slots.empty()) list.add("encoder.slots", parts.slots);
  for (std::size_t i = 0; i < parts.alignment.blocks.size(); ++i) {
    add_block(list, detail::layer_name("alignment", i), parts.alignment.blocks[i]);
  }
  const bool unaligned = parts.alignment.blocks.empty() && parts.linear.weight.empty();
  if (unaligned) {
    // Merged rows are soft tokens as they are.
  } else if (parts.alignment.blocks.empty()) {
    list.add("alignment.linear.weight", parts.linear.weight);
    list.add_vector("alignment.linear.bias", parts.linear.bias);
  } else {
    list.add_vector("alignment.norm.weight", parts.alignment.final_norm);
  }
  for (std::size_t i = 0; i < base.blocks.size(); ++i) {
    const auto old = model::linear_maps(base.blocks[i]);
    const auto now = model::linear_maps(parts.decoder.blocks[i]);
    for (std::size_t j = 0; j < now.size(); ++j) {
      const host_matrix& m = now[j].map->weight;
      const host_matrix& was = old[j].map->weight;
      if (detail::same_matrix(m, was)) continue;
      list.add(detail::layer_name("decoder", i) + std::string(now[j].hugging_face) + ".weight", m);
    }
  }
  std::string rates;
  for (const index_t rate : adapter.rates) {
    rates += (rates.empty() ? "" : ",") + std::to_string(rate);
  }
  write_safetensors(path, list.tensors(),
                    {{"format", std::string(gmsa_adapter_format)},
                     {"base", detail::base_text(fingerprint(base))},
                     {"encoder_layers", std::to_string(parts.encoder.blocks.size())},
                     {"alignment_layers", std::to_string(parts.alignment.blocks.size())},
                     {"alignment", unaligned ? "none" : ""},
                     {"merging", detail::merging_name(parts)},
                     {"lora_alpha", std::to_string(parts.lora_alpha)},
                     {"rates", rates}});
}

/// Reads an adapter onto its base model; what it does not hold is the base's.
/// @throws format_error naming every tensor that is missing, unknown or mis-shaped, metadata that
/// is no good, another base model, or a number that is not finite; file_error.
inline gmsa_adapter read_gmsa_adapter(const std::filesystem::path& path,
                                      const model::host_model& base) {
  const auto file = safetensors_file::open(path);
  const auto metadata = [&file](std::string_view key) -> std::string {
    const auto at = file.metadata().find(key);
    return at == file.metadata().end() ? std::string() : at->second;
  };
  if (metadata("format") != gmsa_adapter_format) {
    throw format_error(file.name() + ": metadata 'format' is " + quote(metadata("format")) +
                       ", expected " + quote(gmsa_adapter_format));
  }
  const std::string here = detail::base_text(fingerprint(base));
  if (metadata("base") != here) {
    throw format_error(file.name() + ": was trained on another model (fingerprint " +
                       quote(metadata("base")) + ", that of this model is '" + here + "')");
  }
  const model::model_config& c = base.config;
  const gmsa::compressor_shape shape{detail::metadata_number<index_t>(file, "encoder_layers"),
                                     detail::metadata_number<index_t>(file, "alignment_layers")};
  if (shape.encoder_layers < 1 || shape.encoder_layers > c.n_layers || shape.alignment_layers < 0 ||
      shape.alignment_layers > c.n_layers) {
    throw format_error(file.name() + ": metadata says " + std::to_string(shape.encoder_layers) +
                       " encoder and " + std::to_string(shape.alignment_layers) +
                       " alignment layers, the model has " + std::to_string(c.n_layers));
  }
  const auto alpha = detail::metadata_number<double>(file, "lora_alpha");
  std::vector<stored_tensor> tensors;
  index_t rank = 0;
  for (const safetensors_tensor& t : file.tensors()) {
    tensors.push_back(as_weight(t, file.name()));
    if (t.name.ends_with(".lora_A") && !t.extents.empty()) rank = t.extents.front();
  }
  const tensor_rules rules = rules_of(base);
  std::vector<named_extents> expected;
  for (index_t i = 0; rank > 0 && i < shape.encoder_layers; ++i) {
    for (const block_map& m : block_maps(c, rules)) {
      const std::string name =
          detail::layer_name("encoder", static_cast<std::size_t>(i)) + std::string(m.name);
      expected.push_back({name + ".lora_A", {rank, m.in}});
      expected.push_back({name + ".lora_B", {m.out, rank}});
    }
  }
  for (index_t i = 0; i < shape.alignment_layers; ++i) {
    detail::add_block_names(expected, detail::layer_name("alignment", static_cast<std::size_t>(i)),
                            c, rules);
  }
  const std::string merging = metadata("merging");  // Once there was the mean only.
  if (!merging.empty() && merging != "mean" && merging != "last" && merging != "slots") {
    throw format_error(file.name() + ": metadata 'merging' is " + quote(merging) +
                       ", expected 'mean', 'last' or 'slots'");
  }
  if (merging == "slots") {
    const safetensors_tensor* t = file.find_tensor("encoder.slots");
    const index_t n = t == nullptr || t->extents.empty() ? 1 : t->extents.front();
    expected.push_back({"encoder.slots", {std::max<index_t>(n, 1), c.d_model}});
  }
  const bool linear = shape.alignment_layers == 0 && metadata("alignment") != "none";
  if (linear) {
    expected.push_back({"alignment.linear.weight", {c.d_model, c.d_model}});
    expected.push_back({"alignment.linear.bias", {c.d_model}});
  } else if (shape.alignment_layers > 0) {
    expected.push_back({"alignment.norm.weight", {c.d_model}});
  }
  // Any map of the decoder may be there, or not.
  for (index_t i = 0; i < c.n_layers; ++i) {
    for (const block_map& m : block_maps(c, rules)) {
      named_extents want{detail::layer_name("decoder", static_cast<std::size_t>(i)) +
                             std::string(m.name) + ".weight",
                         {m.out, m.in}};
      if (file.find_tensor(want.name) != nullptr) expected.push_back(std::move(want));
    }
  }
  expect_tensors(expected, tensors, file.name(), "a GMSA adapter for this model");
  detail::expect_finite(tensors, file.name());
  if (rank > 0 && !(alpha > 0 && std::isfinite(alpha))) {
    throw format_error(file.name() + ": metadata 'lora_alpha' is " + quote(metadata("lora_alpha")) +
                       ", expected a positive number");
  }

  gmsa_adapter adapter;
  adapter.rates = gmsa_adapter_rates(file);
  gmsa::host_parts& parts = adapter.parts;
  parts = gmsa::untrained_parts(base, shape);
  if (merging == "last") parts.merging = gmsa::merging::last;
  parts.decoder.storage.push_back(file.storage());
  parts.encoder.storage.push_back(file.storage());
  parts.alignment.storage.push_back(file.storage());
  const auto take = [&](host_matrix& to, const std::string& name) {
    if (const auto* t = detail::find(tensors, name)) to = detail::as_matrix(*t);
  };
  const auto take_maps = [&](model::host_block& block, const std::string& before) {
    for (const auto& [target, name, map] : model::linear_maps(block)) {
      take(map->weight, before + std::string(name) + ".weight");
      take(map->bias, before + std::string(name) + ".bias");
    }
  };
  take(parts.slots, "encoder.slots");
  if (rank > 0) {
    parts.encoder_lora =
        read_lora(tensors, parts.encoder, detail::adapter_lora_names(), file.name());
    parts.lora_alpha = alpha;
  }
  for (std::size_t i = 0; i < parts.alignment.blocks.size(); ++i) {
    const std::string before = detail::layer_name("alignment", i);
    model::host_block& block = parts.alignment.blocks[i];
    take_maps(block, before);
    for (const auto& [part, norm] :
         {std::pair{hugging_face_names.attention_norm, &block.attention_norm},
          std::pair{hugging_face_names.feed_forward_norm, &block.feed_forward_norm},
          std::pair{hugging_face_names.query_norm, &block.query_norm},
          std::pair{hugging_face_names.key_norm, &block.key_norm}}) {
      take(*norm, before + std::string(part) + ".weight");
    }
  }
  take(parts.alignment.final_norm, "alignment.norm.weight");
  for (std::size_t i = 0; i < parts.decoder.blocks.size(); ++i) {
    take_maps(parts.decoder.blocks[i], detail::layer_name("decoder", i));
  }
  if (linear) {
    take(parts.linear.weight, "alignment.linear.weight");
    take(parts.linear.bias, "alignment.linear.bias");
  }
  return adapter;
}

}  // namespace gistkv::io
