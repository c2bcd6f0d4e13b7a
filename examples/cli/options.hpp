// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <cli/arguments.hpp>
#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/types.hpp>
#include <gistkv/model/sampler.hpp>
#include <gistkv/text/segmenter_rule.hpp>

namespace gistkv::cli {

// What the user said. Absent options stay empty, so that a file may supply what was not said.

struct model_options {
  std::string model;
  std::string adapter;
  int threads = 0;
};

struct method_options {
  std::optional<std::string> method;
  std::optional<index_t> gists;
  std::optional<index_t> rate;
  std::optional<index_t> recent;
  std::optional<index_t> sink;
  std::optional<std::string> budget;
  std::optional<index_t> max_anchors;
  std::optional<std::string> overflow;
  std::optional<std::string> segmenter;
  std::optional<std::string> cache_type;
  index_t chunk = 256;
  bool past_context = false;
};

struct sampling_options {
  model::sampler_options sampler;
  index_t max_tokens = 128;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

void add_model_options(CLI::App& verb, model_options& o);
/// --method and what belongs to one alone; with the options of the next.
void add_method_options(CLI::App& verb, method_options& o);
/// What eval, which has a list of methods and texts of its own for them, has too.
void add_layout_options(CLI::App& verb, method_options& o);
void add_sampling_options(CLI::App& verb, sampling_options& o);
void add_seed(CLI::App& verb, std::uint64_t& seed);
void add_json(CLI::App& verb, bool& wanted);

/// Memory that a cache may hold.
struct budget {
  bool match = false;  ///< As much as sag holds behind the text.
  std::uint64_t bytes = 0;
};

/// A method with every choice made.
struct method_settings {
  std::string method = "sag";
  index_t n_gist = 4;  ///< 0: no gists in the text.
  index_t rate = 4;    ///< Of gmsa: tokens of the text that become one soft token.
  std::string rule = "paper";
  cache::cache_options cache;
  std::optional<cli::budget> budget;      ///< Of a window that still has to be counted in rows.
  cache::cache_rule matched{4, 0, 1, 0};  ///< The sag whose memory `match` means.
  index_t chunk = 256;
  bool past_context = false;

  text::any_segmenter segmenter() const;
};

/// @throws usage_error naming the option and what would be right.
method_settings resolve(const method_options& o);
/// The same, where what is not said is as the adapter was trained: gists, recent sentences, sink
/// and segmenter, or the rate of compression.
method_settings resolve(method_options o, const model_options& model);

/// The same settings under another method, as --compare and `match` need it.
method_settings with_method(const method_settings& from, const std::string& method);

/// @throws usage_error.
text::any_segmenter parse_rule(const std::string& rule);
void check_sampling(const sampling_options& o);
void require_model(const model_options& o);
void check_threads(int n_threads);

}  // namespace gistkv::cli
