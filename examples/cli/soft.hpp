// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <cli/engine.hpp>
#include <cli/options.hpp>
#include <cli/reading.hpp>
#include <gistkv/gmsa/weights.hpp>

/// --method gmsa: a text becomes soft tokens, which the decoder reads in front of a question.

namespace gistkv::cli {

/// What makes soft tokens, and where it comes from.
struct soft_source {
  gmsa::host_parts parts;
  bool trained = false;
  std::uint64_t fingerprint = 0;  ///< Of the adapter file; 0: untrained.
};

/// Whether a file is an adapter of GMSA. @throws format_error, io::file_error.
bool is_soft_adapter(const std::string& path);

/// Rates that an adapter was trained for. @throws format_error, io::file_error.
std::vector<index_t> adapter_rates(const std::string& path);

/// @throws format_error, io::file_error for an adapter that does not fit the model.
soft_source make_soft_source(const std::string& adapter, const model::host_model& base);

/// Soft tokens of a text in a context that has read nothing yet.
/// @throws argument_error for a text that is too long; usage_error for a rate above its length.
context read_soft_context(const engine& e, const method_settings& settings, std::string_view text,
                          const std::string& name);

/// Lets the decoder read the soft tokens of a context, if it has some.
void settle(const engine& e, const method_settings& settings, context& c);

/// Says that answers mean nothing yet, unless the compressor was trained.
void note_untrained_compressor(const soft_source& source);

/// A compressor, and the decoder that it was trained with, in a backend's memory.
struct soft_method {
  soft_source source;
  index_t rate;
  std::unique_ptr<const resident_compressor> compressor;
  std::unique_ptr<const resident_model> decoder;

  /// @throws format_error, io::file_error for an adapter that does not fit the model.
  soft_method(const engine& e, const std::string& adapter, index_t rate_asked);
};

}  // namespace gistkv::cli
