// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/reading.hpp>
#include <gistkv/cache/snapshot.hpp>

namespace gistkv::cli {

/// A compressed context as a file holds it, before a model is at hand.
struct context_file {
  cache_type cache;
  cache::snapshot_info info;
  std::uint64_t file_bytes = 0;
};

/// Whether the file begins as a compressed context does.
bool is_context_file(const std::string& path);

/// @throws format_error, io::file_error.
context_file load_context_file(backend& be, const std::string& path);

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

/// The context of a file that belongs to the engine.
context open_context(context_file file, const std::string& path, const engine& e);

/// Writes the context, whole or not at all; returns the bytes of the file. @throws io::file_error.
std::uint64_t save_context(const context& c, const std::string& path, const engine& e,
                           const method_settings& settings, std::uint64_t seed);

}  // namespace gistkv::cli
