// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <nlohmann/json.hpp>

#include <gistkv/eval/work.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>

namespace gistkv::peers {

using json = nlohmann::ordered_json;

inline constexpr index_t n_gist = 4;
inline constexpr index_t n_sink = 1;

/// Rows of a text, and end[n]: how many of them the first n text tokens and their gists take.
struct rows_of_text {
  std::vector<token_t> ids;
  std::vector<std::uint8_t> is_gist;
  std::vector<index_t> end = {0};

  rows_of_text(const std::string& text, const io::tokenizer& tokens, token_t first_gist,
               bool gists) {
    const auto encode = [&](std::string_view piece, std::vector<token_t>& out) {
      tokens.encode(piece, out, io::special_tokens::as_text);
    };
    const text::gist_layout all = text::lay_out(text, text::paper{}, n_gist, first_gist, encode);
    for (std::size_t i = 0; i < all.ids.size(); ++i) {
      if (all.is_gist[i] != 0 && !gists) continue;
      ids.push_back(all.ids[i]);
      is_gist.push_back(all.is_gist[i]);
      if (all.is_gist[i] == 0) end.push_back(end.back());
      end.back() = static_cast<index_t>(ids.size());
    }
  }

  index_t end_of(index_t n_text) const {
    if (n_text < static_cast<index_t>(end.size())) return end[static_cast<std::size_t>(n_text)];
    throw argument_error("the text has " + std::to_string(end.size() - 1) + " tokens, want " +
                         std::to_string(n_text));
  }
  std::span<const token_t> slice(index_t first, index_t last) const {
    return {ids.data() + first, static_cast<std::size_t>(last - first)};
  }
};

template <class F>
double seconds_of(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A field of /proc/self/status, in bytes.
inline std::uint64_t memory(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

struct bench_options {
  bool gists = false;  ///< Sentence mode; else dense.
  index_t chunk = 512;
  index_t repeat = 1;  ///< Timed runs, each on a fresh session.
};

/// Times one model on one text, with a cache of elements KV.
template <class B, class KV>
class bench {
 public:
  using session = model::session<B, element_t<B>, KV>;

  bench(B& be, io::loaded_model source, const std::string& text, const io::tokenizer& tokens,
        bench_options o)
      : gists_(o.gists ? n_gist : 0),
        chunk_(o.chunk),
        repeat_(o.repeat),
        weights_(source.weights),
        model_(be, source.weights, model::untrained_gist_rows(source.weights, gists_, 1)),
        rows_(text, tokens, model_.first_gist(), gists_ > 0) {
    rows_.end_of(16);  // So many a warm-up takes.
    for (const auto& [type, totals] : source.file.by_type) types_.emplace_back(to_string(type));
    source = {};
#if defined(__GLIBC__)
    ::malloc_trim(0);  // What loading has freed is no memory of the model.
#endif
    rss_loaded_ = memory("VmRSS");
    peak_load_ = memory("VmHWM");
    std::ofstream("/proc/self/clear_refs") << 5;  // The peak counts from here on.
  }

  json prefill(index_t n) {
    const index_t end = rows_.end_of(n);
    warm_up(end);
    json report = {{"task", "prefill"}, {"n_text", n}};
    std::vector<double> seconds;
    for (index_t i = 0; i < repeat_; ++i) {
      session s = fresh();
      seconds.push_back(seconds_of([&] { s.read(rows_.slice(0, end)); }));
      if (i + 1 == repeat_) describe(report, s, end);
    }
    double pairs = 0;
    cache::row_ledger books(rule());
    for (index_t i = 0; i < end; ++i) pairs += visible(append(books, i));
    const model::model_config& c = model_.config();
    const auto pair = static_cast<double>(4 * c.head_dim * c.n_heads * c.n_layers);
    report["gflop_linear"] = 1e-9 * weights_.flops * static_cast<double>(end);
    report["gflop_attention"] = 1e-9 * pair * pairs;
    report["seconds"] = seconds;
    return report;
  }

  json decode(index_t depth, index_t n_tokens) {
    const index_t begin = rows_.end_of(depth);
    const index_t end = rows_.end_of(depth + n_tokens);
    warm_up(std::max<index_t>(begin, 16));
    json report = {{"task", "decode"}, {"n_text", depth}, {"n_tokens", n_tokens}};
    std::vector<double> seconds;
    json plain = json::array();
    json close = json::array();
    double bytes = 0;
    index_t n_close = 0;
    for (index_t i = 0; i < repeat_; ++i) {
      session s = fresh();
      if (begin > 0) s.read(rows_.slice(0, begin));
      double sum[2] = {0, 0};
      n_close = 0;
      for (index_t t = depth; t < depth + n_tokens; ++t) {
        const std::span<const token_t> step = rows_.slice(rows_.end_of(t), rows_.end_of(t + 1));
        const bool closes = step.size() > 1;
        sum[closes ? 1 : 0] += seconds_of([&] { s.read(step); });
        n_close += closes ? 1 : 0;
      }
      seconds.push_back(sum[0] + sum[1]);
      const auto mean = [](double x, index_t n) {
        return n > 0 ? json(x / static_cast<double>(n)) : json();
      };
      plain.push_back(mean(sum[0], n_tokens - n_close));
      close.push_back(mean(sum[1], n_close));
      if (i + 1 == repeat_) describe(report, s, end);
      if (i > 0) continue;
      bytes = weights_.bytes * static_cast<double>(n_tokens) + kv_bytes_read(s, depth, n_tokens);
    }
    report["n_close_steps"] = n_close;
    report["gb_floor"] = bytes * 1e-9;
    report["seconds"] = seconds;
    report["seconds_plain_step"] = plain;
    report["seconds_close_step"] = close;
    return report;
  }

 private:
  cache::cache_rule rule() const {
    return {.n_gist = gists_, .n_sink = gists_ > 0 ? n_sink : index_t{0}};
  }
  session fresh() const { return session(model_, {.rule = rule()}, {chunk_, true}); }

  /// Everything that a first pass makes once: threads, kernels, a chunk, a step, a close step.
  void warm_up(index_t end) const {
    session s = fresh();
    s.read(rows_.slice(0, std::min(end, 2 * chunk_)));
    for (index_t i = 0; i < 4; ++i) s.read(rows_.slice(i, i + 1));
    s.read(rows_.slice(0, n_gist + 1));
  }

  cache::row_ledger::placement append(cache::row_ledger& books, index_t row) const {
    return books.append(rows_.is_gist[static_cast<std::size_t>(row)] != 0);
  }
  static double visible(const cache::row_ledger::placement& p) {
    return static_cast<double>(p.spans.anchors + p.spans.local_end - p.spans.local_begin);
  }

  /// Bytes of keys and values that the last row of each step sees, over all steps.
  double kv_bytes_read(const session& s, index_t depth, index_t n_tokens) const {
    cache::row_ledger books(rule());
    double rows = 0;
    for (index_t t = 0; t < depth + n_tokens; ++t) {
      cache::row_ledger::placement last;
      for (index_t i = rows_.end_of(t); i < rows_.end_of(t + 1); ++i) last = append(books, i);
      if (t >= depth) rows += visible(last);
    }
    return rows * static_cast<double>(s.cache().bytes_per_row());
  }

  /// Bytes that the method promises to hold behind `end` rows, counted from the text alone.
  std::size_t kv_bytes_formula(index_t end) const {
    index_t held = end;
    if (gists_ > 0) {
      const auto first = rows_.is_gist.begin();
      const auto open = std::find(std::make_reverse_iterator(first + end), rows_.is_gist.rend(), 1);
      const index_t behind = open - std::make_reverse_iterator(first + end);
      held = behind == end ? end : n_sink + std::count(first, first + end, 1) + behind;
    }
    const model::model_config& c = model_.config();
    return static_cast<std::size_t>(held * 2 * c.n_layers * c.n_kv_heads * c.head_dim) * sizeof(KV);
  }

  void describe(json& report, const session& s, index_t end) const {
    const auto base = s.logits().first(static_cast<std::size_t>(model_.config().n_vocab));
    report["next_token"] = std::max_element(base.begin(), base.end()) - base.begin();
    report["n_rows"] = end;
    report["n_gist"] = std::count(rows_.is_gist.begin(), rows_.is_gist.begin() + end, 1);
    report["rows_held"] = s.cache().rows_held();
    report["kv_bytes_held"] = s.cache().bytes_held();
    report["kv_bytes_formula"] = kv_bytes_formula(end);
    report["kv_bytes_allocated"] = s.cache().bytes_allocated();
    report["weight_bytes"] = weights_.bytes;
    report["weight_types"] = types_;
    report["rss_loaded"] = rss_loaded_;
    report["rss_peak_behind_load"] = memory("VmHWM");
    report["rss_peak"] = std::max(peak_load_, memory("VmHWM"));
  }

  index_t gists_;
  index_t chunk_;
  index_t repeat_;
  eval::linear_work weights_;
  model::transformer<B, element_t<B>, KV> model_;
  rows_of_text rows_;
  std::vector<std::string> types_;
  std::uint64_t rss_loaded_ = 0;
  std::uint64_t peak_load_ = 0;
};

}  // namespace gistkv::peers
