// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
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
///   decoder.layers.I.MAP.lora_A, .lora_B                    of the maps that have them
///   decoder.layers.I. ... , decoder.embed_tokens.weight,
///   decoder.norm.weight, decoder.lm_head.weight             only what differs from the base
/// with the names of Hugging Face for maps and norms; and metadata format, base, encoder_layers,
/// alignment_layers, alignment (none, or nothing), merging, lora_alpha and decoder_lora_alpha (0,
/// or nothing, without LoRA) and rates. Readers refuse a merging that they do not know, and tensors
/// that they do not expect.

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

inline lora_names adapter_lora_names(const std::string& part) {
  return {part + ".layers.", ".lora_A", ".lora_B"};
}

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

template <class Matrix>
struct named_matrix {
  std::string name;
  Matrix* matrix;
  bool vector;  ///< One row, in a file a tensor of one extent.
};

/// Every tensor that a model may have, which may be const; empty where it has none.
template <class Model>
auto all_tensors(Model& m, const char* part) {
  using matrix = std::remove_reference_t<decltype((m.final_norm))>;
  const std::string prefix = std::string(part) + ".";
  std::vector<named_matrix<matrix>> all{{prefix + "embed_tokens.weight", &m.token_embedding, false},
                                        {prefix + "lm_head.weight", &m.head.weight, false}};
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    auto& block = m.blocks[i];
    const std::string before = layer_name(part, i);
    for (const auto& [target, name, map] : model::linear_maps(block)) {
      all.push_back({before + std::string(name) + ".weight", &map->weight, false});
      all.push_back({before + std::string(name) + ".bias", &map->bias, true});
    }
    for (const auto& [name, norm] :
         {std::pair{hugging_face_names.attention_norm, &block.attention_norm},
          std::pair{hugging_face_names.feed_forward_norm, &block.feed_forward_norm},
          std::pair{hugging_face_names.query_norm, &block.query_norm},
          std::pair{hugging_face_names.key_norm, &block.key_norm}}) {
      all.push_back({before + std::string(name) + ".weight", norm, true});
    }
  }
  all.push_back({prefix + "norm.weight", &m.final_norm, true});
  return all;
}

/// The encoder is the first layers of the base, since an adapter holds none of it.
/// @throws argument_error naming what differs.
inline void expect_base(const model::host_model& encoder, const model::host_model& base) {
  model::host_model first = gmsa::first_layers(base, static_cast<index_t>(encoder.blocks.size()));
  first.token_embedding = base.token_embedding;
  first.head = base.head;
  const auto found = all_tensors(encoder, "encoder");
  const auto want = all_tensors(first, "encoder");
  for (std::size_t i = 0; i < found.size(); ++i) {
    const bool left_out = i < 2 && found[i].matrix->empty();  // Table and head.
    if (left_out || same_matrix(*found[i].matrix, *want[i].matrix)) continue;
    throw argument_error("gmsa adapter: " + found[i].name +
                         " is not that of the base model, which only a checkpoint can hold");
  }
}

}  // namespace detail

/// Whether a safetensors file says of itself that it is such an adapter.
inline bool is_gmsa_adapter(const safetensors_file& file) {
  const auto at = file.metadata().find("format");
  return at != file.metadata().end() && at->second.starts_with("gistkv gmsa adapter");
}

/// Writes what differs from the base model. @throws argument_error for another type than f32, bf16
/// or f16, LoRA for some maps of the encoder only or of an alpha that is not positive, or an
/// encoder or a decoder that is not the base's in what the file has no place for; file_error.
inline void write_gmsa_adapter(const std::filesystem::path& path, const gmsa_adapter& adapter,
                               const model::host_model& base, weight_type type) {
  const gmsa::host_parts& parts = adapter.parts;
  detail::expect_base(parts.encoder, base);
  tensor_list list(type);
  if (!parts.encoder_lora.empty()) {
    add_lora(list, parts.encoder_lora, parts.encoder, detail::adapter_lora_names("encoder"),
             maps_with_lora::all);
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
  add_lora(list, parts.decoder_lora, parts.decoder, detail::adapter_lora_names("decoder"),
           maps_with_lora::some);
  const auto old = detail::all_tensors(base, "decoder");
  const auto now = detail::all_tensors(parts.decoder, "decoder");
  if (now.size() != old.size()) {
    throw argument_error("gmsa adapter: the decoder has " +
                         std::to_string(parts.decoder.blocks.size()) + " layers, the base model " +
                         std::to_string(base.blocks.size()));
  }
  for (std::size_t i = 0; i < now.size(); ++i) {
    const host_matrix& m = *now[i].matrix;
    const host_matrix& was = *old[i].matrix;
    if (detail::same_matrix(m, was)) continue;
    if (m.rows != was.rows || m.cols != was.cols) {
      const auto extents = [](const host_matrix& x) {
        const std::array all{x.rows, x.cols};
        return extents_text(all);
      };
      throw argument_error("gmsa adapter: " + now[i].name + " is " + extents(m) +
                           ", in the base model " + extents(was));
    }
    if (now[i].vector) {
      list.add_vector(now[i].name, m);
    } else {
      list.add(now[i].name, m);
    }
  }
  std::string rates;
  for (const index_t rate : adapter.rates) {
    rates += (rates.empty() ? "" : ",") + std::to_string(rate);
  }
  const auto alpha = [](const std::vector<model::low_rank>& lora, double value) {
    return lora.empty() ? std::string("0") : detail::alpha_text(value);
  };
  write_safetensors(path, list.tensors(),
                    {{"format", std::string(gmsa_adapter_format)},
                     {"base", detail::base_text(fingerprint(base))},
                     {"encoder_layers", std::to_string(parts.encoder.blocks.size())},
                     {"alignment_layers", std::to_string(parts.alignment.blocks.size())},
                     {"alignment", unaligned ? "none" : ""},
                     {"merging", detail::merging_name(parts)},
                     {"lora_alpha", alpha(parts.encoder_lora, parts.lora_alpha)},
                     {"decoder_lora_alpha", alpha(parts.decoder_lora, parts.decoder_lora_alpha)},
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
  const bool told = !metadata("decoder_lora_alpha").empty();  // Once there was none.
  const auto decoder_alpha = told ? detail::metadata_number<double>(file, "decoder_lora_alpha") : 0;
  std::vector<stored_tensor> tensors;
  index_t rank = 0;
  for (const safetensors_tensor& t : file.tensors()) {
    tensors.push_back(as_weight(t, file.name()));
    if (t.name.starts_with("encoder.") && t.name.ends_with(".lora_A") && !t.extents.empty()) {
      rank = t.extents.front();
    }
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
  gmsa_adapter adapter;
  gmsa::host_parts& parts = adapter.parts;
  parts = gmsa::untrained_parts(base, shape);
  const auto expect = [&expected](const detail::named_matrix<host_matrix>& t) {
    const host_matrix& m = *t.matrix;
    expected.push_back(
        {t.name, t.vector ? std::vector<index_t>{m.cols} : std::vector<index_t>{m.rows, m.cols}});
  };
  for (const auto& t : detail::all_tensors(parts.alignment, "alignment")) {
    if (!t.matrix->empty()) expect(t);
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
  }
  // Any tensor of the decoder may be there, or not, and LoRA of any map.
  for (const auto& t : detail::all_tensors(parts.decoder, "decoder")) {
    if (!t.matrix->empty() && file.find_tensor(t.name) != nullptr) expect(t);
  }
  bool decoder_has_lora = false;
  const lora_names of_decoder = detail::adapter_lora_names("decoder");
  for (std::size_t i = 0; i < base.blocks.size(); ++i) {
    for (const block_map& m : block_maps(c, rules)) {
      const std::string a = of_decoder.of(i, m.name, of_decoder.a);
      const std::string b = of_decoder.of(i, m.name, of_decoder.b);
      const safetensors_tensor* found = file.find_tensor(a);
      if (found == nullptr && file.find_tensor(b) == nullptr) continue;
      const index_t r =
          found == nullptr || found->extents.empty() ? 1 : std::max<index_t>(found->extents[0], 1);
      expected.push_back({a, {r, m.in}});
      expected.push_back({b, {m.out, r}});
      decoder_has_lora = true;
    }
  }
  expect_tensors(expected, tensors, file.name(), "a GMSA adapter for this model");
  detail::expect_finite(tensors, file.name());
  for (const auto& [has_lora, key, value] :
       {std::tuple{rank > 0, "lora_alpha", alpha},
        std::tuple{decoder_has_lora, "decoder_lora_alpha", decoder_alpha}}) {
    if (!has_lora || (value > 0 && std::isfinite(value))) continue;
    throw format_error(file.name() + ": metadata '" + key + "' is " + quote(metadata(key)) +
                       ", expected a positive number");
  }

  adapter.rates = gmsa_adapter_rates(file);
  if (merging == "last") parts.merging = gmsa::merging::last;
  parts.decoder.storage.push_back(file.storage());
  parts.encoder.storage.push_back(file.storage());
  parts.alignment.storage.push_back(file.storage());
  const auto take = [&](host_matrix& to, const std::string& name) {
    if (const auto* t = detail::find(tensors, name)) to = detail::as_matrix(*t);
  };
  take(parts.slots, "encoder.slots");
  if (rank > 0) {
    parts.encoder_lora =
        read_lora(tensors, parts.encoder, detail::adapter_lora_names("encoder"), file.name());
    parts.lora_alpha = alpha;
  }
  if (decoder_has_lora) {
    parts.decoder_lora = read_lora(tensors, parts.decoder, of_decoder, file.name());
    parts.decoder_lora_alpha = decoder_alpha;
  }
  for (const auto& [part, prefix] :
       {std::pair{&parts.alignment, "alignment"}, std::pair{&parts.decoder, "decoder"}}) {
    for (const auto& [name, m, vector] : detail::all_tensors(*part, prefix)) take(*m, name);
  }
  if (linear) {
    take(parts.linear.weight, "alignment.linear.weight");
    take(parts.linear.bias, "alignment.linear.bias");
  }
  return adapter;
}

}  // namespace gistkv::io
