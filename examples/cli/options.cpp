// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/options.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <string_view>

#include <cli/backend.hpp>
#include <cli/errors.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv::cli {

namespace {

constexpr std::array<std::string_view, 5> methods = {"sag", "gmsa", "full", "window", "uniform"};
constexpr std::array<std::string_view, 5> eval_methods = {"base", "recent", "separators", "evict",
                                                          "snapkv"};
constexpr std::string_view want_methods = ", want sag, gmsa, full, window or uniform";
constexpr index_t most_gists = 1024;

template <class List>
bool contains(const List& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

std::string in_quotes(std::string_view text) { return std::string("'").append(text).append("'"); }

void check_range(const char* option, index_t value, index_t least, index_t most,
                 const std::string& hint = {}) {
  if (value >= least && value <= most) return;
  const std::string range = most == std::numeric_limits<index_t>::max()
                                ? std::to_string(least) + " or more"
                                : std::to_string(least) + " to " + std::to_string(most);
  throw usage_error(std::string(option) + " is " + std::to_string(value) + ", want " + range +
                    hint);
}
constexpr index_t no_limit = std::numeric_limits<index_t>::max();

/// "4000000", "4M", "4MiB" (powers of 1024).
budget parse_budget(const std::string& text) {
  if (text == "match") return {true, 0};
  std::uint64_t n = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), n);
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  int shift = -1;
  if (unit.empty() || unit == "b") shift = 0;
  if (unit == "k" || unit == "kib") shift = 10;
  if (unit == "m" || unit == "mib") shift = 20;
  if (unit == "g" || unit == "gib") shift = 30;
  if (failure != std::errc{} || shift < 0 || n == 0 ||
      n > (std::numeric_limits<std::uint64_t>::max() >> shift)) {
    throw usage_error("--budget is " + in_quotes(text) +
                      ", want a number of bytes (4000000, 4M, 4MiB) or match");
  }
  return {false, n << shift};
}

std::string checked_method(const std::string& method) {
  if (contains(eval_methods, method)) {
    throw usage_error("--method " + method + " is there for eval only" + std::string(want_methods));
  }
  if (!contains(methods, method)) {
    throw usage_error("--method is " + in_quotes(method) + std::string(want_methods));
  }
  return method;
}

}  // namespace

void add_model_options(CLI::App& verb, model_options& o) {
  add_option(verb, "--model", o.model,
             "Model: a GGUF file, or a directory with config.json, tokenizer.json and safetensors",
             "FILE|DIR");
  add_option(verb, "--adapter", o.adapter, "Trained gist rows, or compressor of gmsa (safetensors)",
             "FILE");
  add_option(verb, "--threads", o.threads, "Threads to compute with; 0: all that there are", "N");
}

void add_method_options(CLI::App& verb, method_options& o) {
  add_option(
      verb, "--method", o.method,
      "sag: gists at sentence ends; gmsa: soft tokens of groups of tokens; full: everything; "
      "window: sink and the last rows; uniform: gists every N tokens (default sag)",
      "NAME");
  add_layout_options(verb, o);
  add_option(verb, "--sink", o.sink, "First rows that stay for ever (default 1; 4 for window)",
             "S");
  add_option(verb, "--budget", o.budget,
             "Memory of a window: bytes (4M, 4MiB), or match: as much as sag holds behind the text",
             "BYTES|match");
  add_option(verb, "--max-anchors", o.max_anchors, "Most sink and gist rows; 0: no limit (default)",
             "N");
  add_option(verb, "--overflow", o.overflow,
             "What happens behind --max-anchors: drop the oldest sentences, or refuse",
             "drop|refuse");
}

void add_layout_options(CLI::App& verb, method_options& o) {
  add_option(verb, "--gists", o.gists, "Gists a sentence (default 4, or the adapter's)", "N");
  add_option(verb, "--rate", o.rate,
             "Of gmsa: tokens of the text a soft token (default 4, or what the adapter was trained "
             "for)",
             "N");
  add_option(verb, "--recent", o.recent,
             "Closed sentences that stay raw (default 0, or the adapter's)", "K");
  add_option(
      verb, "--segmenter", o.segmenter,
      "Sentence ends: paper, unicode or english, ,before puts them in front of white space; or "
      "uniform:N; ,min_bytes:B joins shorter ones, ,max_length:M cuts longer ones (default paper, "
      "or the adapter's)",
      "RULE");
  std::string types = "Element type of the cache, and precision of products: ";
  types += cache_types() + " (default " + default_cache_type() + ", or that of X.gkv)";
  add_option(verb, "--cache-type", o.cache_type, types, "TYPE");
  add_option(verb, "--chunk", o.chunk, "Tokens of one pass; changes no more than rounding (256)",
             "N");
  add_flag(verb, "--past-context", o.past_context,
           "Go on behind the positions that the model was trained for");
}

void add_sampling_options(CLI::App& verb, sampling_options& o) {
  add_option(verb, "--temperature", o.sampler.temperature,
             "0: always the likeliest token (default)", "T");
  add_option(verb, "--top-k", o.sampler.top_k, "Only the K likeliest tokens; 0: all (default)",
             "K");
  add_option(verb, "--top-p", o.sampler.top_p, "Only the likeliest tokens that make up P (1)", "P");
  add_option(verb, "--repeat-penalty", o.sampler.repeat_penalty,
             "Divides the scores of tokens already written; 1: off (default)", "R");
  add_option(verb, "--max-tokens", o.max_tokens, "Most tokens to write, gists not counted (128)",
             "N");
  add_option(verb, "--stop", o.stop, "End in front of this text; may be repeated", "TEXT");
  add_flag(verb, "--ignore-eos", o.ignore_eos, "Go on behind tokens that end a text");
}

void add_seed(CLI::App& verb, std::uint64_t& seed) {
  add_option(verb, "--seed", seed, "Of untrained gist rows and of sampling (0)", "N");
}

void add_json(CLI::App& verb, bool& wanted) {
  add_flag(verb, "--json", wanted, "Print one JSON document");
}

text::any_segmenter method_settings::segmenter() const { return parse_rule(rule); }

method_settings resolve(const method_options& o) {
  method_settings s;
  s.method = checked_method(o.method.value_or("sag"));
  if (o.cache_type) check_cache_type(*o.cache_type);
  const bool gists = s.method == "sag" || s.method == "uniform";
  const bool window = s.method == "window";
  const bool soft = s.method == "gmsa";
  auto refuse = [&](bool given, const char* option, bool applies) {
    if (given && !applies) {
      throw usage_error(std::string(option) + " has no meaning under --method " + s.method);
    }
  };
  const bool matches = window && o.budget == "match";
  refuse(o.gists.has_value(), "--gists", gists || matches);
  refuse(o.recent.has_value(), "--recent", gists || matches);
  refuse(o.max_anchors.has_value(), "--max-anchors", gists);
  refuse(o.overflow.has_value(), "--overflow", gists);
  refuse(o.budget.has_value(), "--budget", window);
  refuse(o.sink.has_value(), "--sink", s.method != "full" && !soft);
  refuse(o.rate.has_value(), "--rate", soft);
  refuse(o.segmenter.has_value(), "--segmenter", !soft);

  s.rate = o.rate.value_or(4);
  check_range("--rate", s.rate, 1, no_limit);

  s.matched.n_gist = o.gists.value_or(4);
  check_range("--gists", s.matched.n_gist, 1, most_gists,
              " (a cache without gists: --method full)");
  s.matched.recent = o.recent.value_or(0);
  check_range("--recent", s.matched.recent, 0, no_limit);
  if (gists) s.cache.rule = s.matched;
  s.n_gist = s.cache.rule.n_gist;
  s.cache.rule.n_sink = soft ? 0 : o.sink.value_or(window ? 4 : 1);
  check_range("--sink", s.cache.rule.n_sink, 0, 1 << 20);
  s.cache.max_anchors = o.max_anchors.value_or(0);
  if (s.cache.max_anchors != 0) {
    check_range("--max-anchors", s.cache.max_anchors, s.cache.rule.n_sink + s.n_gist, no_limit,
                " (the sink and the gists of a sentence; 0: no limit)");
  }
  const std::string overflow = o.overflow.value_or("drop");
  if (overflow != "drop" && overflow != "refuse") {
    throw usage_error("--overflow is " + in_quotes(overflow) + ", want drop or refuse");
  }
  if (o.overflow && s.cache.max_anchors == 0) {
    throw usage_error("--overflow needs --max-anchors N");
  }
  if (overflow == "refuse") s.cache.on_overflow = cache::budget_policy::refuse;
  if (window && !o.budget) {
    throw usage_error("--method window needs --budget BYTES or --budget match");
  }
  if (o.budget) s.budget = parse_budget(*o.budget);

  s.rule = o.segmenter.value_or(s.method == "uniform" ? "uniform:32" : "paper");
  parse_rule(s.rule);
  if (s.method == "uniform" && !s.rule.starts_with("uniform:")) {
    throw usage_error("--segmenter is " + in_quotes(s.rule) +
                      ", want uniform:N under --method uniform");
  }
  check_range("--chunk", o.chunk, 1, 1 << 20);
  s.chunk = o.chunk;
  s.past_context = o.past_context;
  return s;
}

method_settings with_method(const method_settings& from, const std::string& method) {
  if (method == from.method) return from;
  method_options o;
  o.method = checked_method(method);
  if (method == "window") o.budget = "match";
  method_settings s = resolve(o);
  s.chunk = from.chunk;
  s.past_context = from.past_context;
  // What is compared differs in the method only: same gists, and the same rule where it has a say.
  s.matched = from.n_gist > 0 ? from.cache.rule : from.matched;
  if (s.n_gist > 0) s.cache.rule = s.matched;
  s.n_gist = s.cache.rule.n_gist;
  if (method == "window" && from.n_gist > 0) s.rule = from.rule;
  return s;
}

void check_sampling(const sampling_options& o) {
  try {
    model::validate(o.sampler);
  } catch (const argument_error& failure) {
    throw usage_error(failure.what());
  }
  check_range("--max-tokens", o.max_tokens, 1, no_limit);
  for (const std::string& stop : o.stop) {
    if (stop.empty()) throw usage_error("--stop is empty, want the text to stop at");
  }
}

void require_model(const model_options& o) {
  if (o.model.empty()) {
    throw usage_error(
        "--model is missing, want a GGUF file or a directory with config.json and safetensors");
  }
  check_threads(o.threads);
}

void check_threads(int n_threads) { check_range("--threads", n_threads, 0, 4096); }

}  // namespace gistkv::cli
