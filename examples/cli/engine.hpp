// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <cli/backend.hpp>
#include <cli/codec.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <gistkv/io/chat_template.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/host_model.hpp>

namespace gistkv::io {
struct loaded_model;
class safetensors_file;
}  // namespace gistkv::io

namespace gistkv::cli {

/// Gist rows and where they come from.
struct gist_source {
  model::gist_rows rows;
  model::adapter lora;  ///< What the adapter has besides; `gists` of it is empty.
  bool trained = false;
  std::uint64_t fingerprint = 0;  ///< 0: nothing that changes what the model computes.
};

/// A model without its tokenizer. @throws format_error, io::file_error.
std::unique_ptr<const io::loaded_model> load_model(const std::string& model);

/// The tokenizer that belongs to a model path. @throws format_error, io::file_error.
io::tokenizer load_tokenizer(const std::string& model);

/// What an adapter file of gists holds. @throws format_error, also where it says that it was
/// trained on another model.
model::adapter adapter_of(const io::safetensors_file& file, const model::host_model& base);

/// Hash of gist rows that are of no file.
std::uint64_t fingerprint_of(const model::gist_rows& rows);
/// Hash of what an adapter file changes: its tensors, and how LoRA is applied.
std::uint64_t fingerprint_of(const io::safetensors_file& adapter);

struct soft_source;

/// A model ready to compute, with its tokenizer.
struct engine {
  stopwatch since_start;
  backend_ptr be;
  std::unique_ptr<const io::loaded_model> source;  ///< Its header takes long to compile.
  io::tokenizer tokens;
  gist_source gists;
  std::unique_ptr<const soft_source> soft;  ///< Of --method gmsa; null for others.
  std::unique_ptr<const resident_model> model;
  double seconds_load = 0;

  /// Reads the adapter: under a method without gists only LoRA on all rows is of use.
  engine(backend_ptr to, const model_options& o, const method_settings& settings,
         std::uint64_t seed);
  ~engine();
  engine(const engine&) = delete;
  engine& operator=(const engine&) = delete;

  cli::codec codec() const { return {&tokens}; }
  std::vector<token_t> encode_text(std::string_view text) const;      ///< Markers stay text.
  std::vector<token_t> encode_template(std::string_view text) const;  ///< Markers are tokens.
  /// Bytes of the regular tokens.
  std::string decode(std::span<const token_t> ids) const;
  bool has_chat() const { return !tokens.chat_template().empty(); }
  /// @throws format_error if the model has no template or one that is not known.
  io::chat_template chat() const;

  /// The model without its adapter, if LoRA changed all of its rows; else null.
  std::unique_ptr<const resident_model> load_base() const;

  std::uint64_t model_fingerprint() const;
  /// Of adapter, untrained gist rows or compressor; 0: none that has a say under this method, or an
  /// untrained compressor.
  std::uint64_t adapter_fingerprint() const;
};

/// With what is computed: backend, cache_type, activation_type, factor_type, weight_types (largest
/// share first), threads and instruction_set.
json engine_report(const engine& e);

/// "2 threads, AVX2"
std::string threads_text(const backend_info& info);

/// Says once that answers mean nothing yet, unless the gist rows were trained.
void note_untrained(const engine& e, std::uint64_t seed);

/// @throws argument_error if so many positions are more than the model was trained for; with
/// past_context a note says so.
void check_context(const engine& e, index_t n_positions, bool past_context);

/// Positions left before the context is used up, or a very large number.
index_t positions_left(const engine& e, index_t next_position, bool past_context);

}  // namespace gistkv::cli
