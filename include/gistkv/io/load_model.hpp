// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/io/byte_reader.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/gguf_model_config.hpp>
#include <gistkv/io/llama2c.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/model_assembler.hpp>
#include <gistkv/io/model_config_json.hpp>
#include <gistkv/io/rotary_order.hpp>
#include <gistkv/io/safetensors_set.hpp>
#include <gistkv/io/stored_tensor.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {

/// What one weight type takes up in a model.
struct weight_totals {
  index_t n_tensors = 0;
  index_t n_elements = 0;
  std::uint64_t n_bytes = 0;
};

/// What a program shows of a loaded model beside its config.
struct model_file_info {
  std::string format;  ///< "GGUF 3", "safetensors", "llama2.c".
  std::vector<std::filesystem::path> paths;
  std::uint64_t file_bytes = 0;
  index_t n_parameters = 0;  ///< Elements of all weights; a tied table counts once.
  std::map<weight_type, weight_totals> by_type;
};

struct loaded_model {
  model::host_model weights;
  model_file_info file;
};

/// Picks one model out of a checkpoint that holds several (safetensors only).
struct load_options {
  /// Only tensors whose names begin so belong to the model; the rest of the name is what counts.
  std::string prefix = {};
  /// Applied to each name that is left: the Hugging Face name (model.layers.0...), or nothing for a
  /// tensor that is not part of the model. Empty: names stay.
  std::function<std::optional<std::string>(std::string_view)> rename = {};
  /// Layers of the part, where it has fewer than the config says; 0: as the config says.
  index_t n_layers = 0;
};

namespace detail {

/// Frequencies of rotation pair j divided by element j: how GGUF stores the stretching of
/// Llama 3.1.
inline std::vector<float> take_frequency_divisors(model_assembler& assembler, const gguf_file& file,
                                                  index_t head_dim) {
  constexpr std::string_view name = "rope_freqs.weight";
  const stored_tensor* tensor = assembler.take(name);
  if (tensor == nullptr) return {};
  if (tensor->extents != std::vector<index_t>{head_dim / 2}) {
    throw format_error(file.name() + ": tensor " + quote(name) + " has extents " +
                       extents_text(tensor->extents) + ", expected [" +
                       std::to_string(head_dim / 2) + "]");
  }
  std::vector<float> divisors(static_cast<std::size_t>(head_dim / 2));
  dequantize(tensor->type, tensor->data.data(), head_dim / 2, divisors.data());
  for (const float divisor : divisors) {
    if (!(divisor > 0.0F)) {
      throw format_error(file.name() + ": tensor " + quote(name) + " holds " +
                         std::to_string(divisor) + ", expected positive divisors");
    }
  }
  return divisors;
}

inline tensor_rules gguf_rules(const std::string& architecture) {
  tensor_rules rules;
  if (architecture == "llama") {
    rules = {presence::optional, presence::optional, presence::optional, presence::absent};
  } else if (architecture == "qwen2") {
    rules.query_key_value_bias = presence::required;
  } else {
    rules.query_key_value_bias = presence::optional;
    rules.output_bias = presence::optional;
    rules.query_key_norm = presence::required;
  }
  return rules;
}

inline std::vector<stored_tensor> select_tensors(const safetensors_set& set,
                                                 const load_options& options) {
  std::vector<stored_tensor> tensors;
  for (const safetensors_file& file : set.files()) {
    for (const safetensors_tensor& tensor : file.tensors()) {
      if (!tensor.name.starts_with(options.prefix)) continue;
      std::optional<std::string> name = tensor.name.substr(options.prefix.size());
      if (options.rename) name = options.rename(*name);
      // Older exports store the rotary frequencies, which follow from the config.
      if (!name || name->ends_with(".rotary_emb.inv_freq")) continue;
      stored_tensor weight = as_weight(tensor, file.name());
      weight.name = *std::move(name);
      tensors.push_back(std::move(weight));
    }
  }
  return tensors;
}

inline void count(model_file_info& info, const host_matrix& m) {
  if (m.empty()) return;
  weight_totals& totals = info.by_type[m.type];
  totals.n_tensors += 1;
  totals.n_elements += m.rows * m.cols;
  totals.n_bytes += m.data.size();
  info.n_parameters += m.rows * m.cols;
}

inline model_file_info describe(const model::host_model& m, std::string format,
                                std::vector<std::filesystem::path> paths) {
  model_file_info info;
  info.format = std::move(format);
  info.paths = std::move(paths);
  for (const auto& path : info.paths) {
    std::error_code failure;
    const std::uintmax_t n = std::filesystem::file_size(path, failure);
    if (!failure) info.file_bytes += n;
  }
  count(info, m.token_embedding);
  for (const model::host_block& b : m.blocks) {
    for (const host_matrix* x :
         {&b.attention_norm, &b.query_norm, &b.key_norm, &b.feed_forward_norm}) {
      count(info, *x);
    }
    for (const model::host_linear* x :
         {&b.query, &b.key, &b.value, &b.output, &b.gate, &b.up, &b.down}) {
      count(info, x->weight);
      count(info, x->bias);
    }
  }
  count(info, m.final_norm);
  count(info, m.head.weight);
  return info;
}

}  // namespace detail

/// A model from a GGUF file that is open. @throws format_error naming file and key or tensor.
inline model::host_model assemble_model(const gguf_file& file) {
  model::model_config config = gguf_model_config(file);
  model_assembler assembler({file.tensors().begin(), file.tensors().end()}, file.name());
  config.tied_head = !assembler.contains(gguf_names.head);
  config.rope.frequency_divisors =
      detail::take_frequency_divisors(assembler, file, config.head_dim);
  const tensor_rules rules = detail::gguf_rules(config.architecture);
  model::host_model m = assembler.assemble(std::move(config), gguf_names, rules);
  m.storage = file.storage();
  // The converter of Llama files interleaves rotary pairs, those of the Qwen files keep the halves.
  if (m.config.architecture == "llama") interleaved_to_half_split(m);
  return m;
}

/// A model from safetensors and the text of its config.json. `directory` is for messages.
/// @throws format_error naming file and field or tensor; argument_error for a negative n_layers.
inline model::host_model assemble_model(const safetensors_set& set, std::string_view config_text,
                                        const std::filesystem::path& directory,
                                        const load_options& options = {}) {
  hugging_face_config config =
      parse_model_config(config_text, (directory / "config.json").string());
  if (options.n_layers < 0) {
    throw argument_error("load options: n_layers is " + std::to_string(options.n_layers) +
                         ", expected 0 (as the config says) or more");
  }
  if (options.n_layers != 0) config.model.n_layers = options.n_layers;
  model_assembler assembler(detail::select_tensors(set, options), directory.string());
  model::host_model m =
      assembler.assemble(std::move(config.model), hugging_face_names, config.rules);
  for (const safetensors_file& file : set.files()) m.storage.push_back(file.storage());
  return m;
}

/// Loads a model; its weights stay in the mapped file.
///
/// `path` is
/// - a GGUF file of architecture llama, qwen2 or qwen3 (the first of its parts if it is split),
/// - a directory with config.json (model_type llama, qwen2 or qwen3) and safetensors, or one
///   *.safetensors file beside its config.json,
/// - a llama2.c checkpoint, *.bin.
///
/// Nothing is guessed: what is missing, mis-shaped, left over or not computed by this library is an
/// error, never another result.
/// @throws file_error if a file cannot be read; format_error naming file and field or tensor;
/// argument_error for options with a file that holds one model only.
inline loaded_model load_model(const std::filesystem::path& path,
                               const load_options& options = {}) {
  std::error_code ignored;  // What cannot be looked at fails with its reason when opened.
  const bool is_directory = std::filesystem::is_directory(path, ignored);
  if (is_directory || path.extension() == ".safetensors") {
    const auto directory = is_directory ? path : path.parent_path();
    const auto config_text = read_text_file(directory / "config.json");
    const auto set = safetensors_set::open(path);
    model::host_model m = assemble_model(set, config_text, directory, options);
    model_file_info info = detail::describe(m, "safetensors", set.paths());
    return {std::move(m), std::move(info)};
  }
  if (!options.prefix.empty() || options.rename || options.n_layers != 0) {
    throw argument_error(path.string() +
                         ": load options pick a model out of safetensors, this is another format");
  }
  const auto magic = [&] {
    const mapped_file file(path);
    std::array<char, 4> first = {};
    if (file.bytes().size() >= first.size()) {
      std::memcpy(first.data(), file.bytes().data(), first.size());
    }
    return std::string(first.data(), first.size());
  }();
  if (magic == "GGUF") {
    const gguf_file file = gguf_file::open(path);
    model::host_model m = assemble_model(file);
    model_file_info info =
        detail::describe(m, "GGUF " + std::to_string(file.version()), file.paths());
    return {std::move(m), std::move(info)};
  }
  if (path.extension() == ".bin" && !magic.starts_with("PK")) {
    model::host_model m = load_llama2c(path);
    model_file_info info = detail::describe(m, "llama2.c", {path});
    return {std::move(m), std::move(info)};
  }
  throw format_error(path.string() + ": begins with " + quote(magic) +
                     ", expected a GGUF file, a directory with config.json and safetensors, or a "
                     "llama2.c checkpoint (*.bin)");
}

}  // namespace gistkv::io
