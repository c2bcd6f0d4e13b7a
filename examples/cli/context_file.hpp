// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cli/backend.hpp>
#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/reading.hpp>
#include <gistkv/cache/snapshot.hpp>

namespace gistkv::cli {

/// A compressed context as a file holds it, before a model is at hand.
struct context_file {
  backend_ptr be;  ///< In whose memory the cache lies.
  cache_ptr cache;
  cache::snapshot_info info;
  std::string cache_type;  ///< That it was written from; `be` may have another.
  std::uint64_t file_bytes = 0;
  model::soft_prompt soft;
  double seconds = 0;  ///< That it took from the name of the file to the cache.
};

/// Whether a file is named as a compressed context, or is or begins as the beginning of one: one
/// that was cut or damaged is never read as a text.
bool is_context_file(const std::string& path);

/// Reads a file for a backend; rows of another cache type are converted, others stay in the mapped
/// file where the backend can read that. @throws format_error, io::file_error.
context_file load_context_file(backend_ptr be, const std::string& path);

/// The same on a backend that is made for it: of the cache type that the user said, else of the
/// file's if this program has it, else of the default.
context_file load_context_file(const std::string& path,
                               const std::optional<std::string>& cache_type, int n_threads);

/// An entry of the file. @throws format_error if it is missing.
const std::string& entry(const context_file& file, const std::string& path, const std::string& key);

/// What the file was made with; what the user said must agree with it.
/// @param[in,out] seed  becomes that of the file's untrained gist rows
/// @throws usage_error for an option that the file has decided already.
method_settings settings_of(const context_file& file, const std::string& path,
                            const method_options& said, const model_options& model,
                            std::uint64_t& seed);

/// @throws format_error if the file was made with another model, tokenizer or gist rows.
void check_fingerprints(const context_file& file, const std::string& path, const engine& e);

/// The context of a file that belongs to the engine. A note says so if its rows were converted.
context open_context(context_file file, const std::string& path, const engine& e);

/// Writes the context, whole or not at all; returns the bytes of the file. @throws io::file_error.
std::uint64_t save_context(const context& c, const std::string& path, const engine& e,
                           const method_settings& settings, std::uint64_t seed);

}  // namespace gistkv::cli
