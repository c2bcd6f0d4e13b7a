// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <cli/soft.hpp>
#include <cli/writing.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/eval/restoration.hpp>
#include <gistkv/eval/work.hpp>
#include <gistkv/gmsa/group_merge.hpp>
#include <gistkv/io/load_model.hpp>

/// gmsa as a method of `gistkv eval`: what the others read row by row, it reads as soft tokens.

namespace gistkv::cli {

namespace {

/// Operations of the linear maps and of causal attention over n rows.
double flops(const model::host_model& m, index_t n) {
  const auto rows = static_cast<double>(n);
  const auto attention =
      static_cast<double>(4 * m.config.head_dim * m.config.n_heads * m.config.n_layers);
  return rows * eval::linear_work(m).flops + attention * rows * (rows + 1) / 2;
}

/// What a decoder restores of a text from its soft tokens.
json restoring_record(const evaluation& run, const eval_method& m, const std::string& name,
                      std::span<const token_t> ids, std::span<const token_t> prompt) {
  const engine& e = run.engine();
  const method_settings settings = run.writing_settings(m);
  const auto s = run.model_of(m).go_on(read_soft(run, ids, name),
                                       {settings.chunk, run.options().method.past_context});
  s->read(prompt, nullptr, [](index_t) {});
  sampling_options sampling;
  sampling.max_tokens = static_cast<index_t>(ids.size()) + 1;  // And the end of the text.
  const written w = write(*s, e, settings, sampling, shown_unless(true));
  const eval::restoration found = eval::restored(w.generation.ids, ids);
  json r;
  r["matches"] = found.matches;
  r["n_grams"] = found.n_grams;
  r["n_written"] = found.n_written;
  r["n_wanted"] = found.n_wanted;
  r["in_place"] = found.in_place;
  r["exact_prefix"] = found.exact_prefix;
  return r;
}

/// The sum of records.
eval::restoration sum_of(const std::vector<json>& records, std::span<const std::size_t> items) {
  eval::restoration sum;
  for (const std::size_t i : items) {
    const json& r = records[i];
    for (std::size_t n = 0; n < eval::bleu_order; ++n) {
      sum.matches[n] += r.at("matches")[n].get<double>();
      sum.n_grams[n] += r.at("n_grams")[n].get<double>();
    }
    sum.n_written += r.at("n_written").get<double>();
    sum.n_wanted += r.at("n_wanted").get<double>();
    sum.in_place += r.at("in_place").get<double>();
    sum.exact_prefix += r.at("exact_prefix").get<double>();
  }
  return sum;
}

}  // namespace

soft_method::soft_method(const engine& e, const std::string& adapter, index_t rate_asked)
    : source(make_soft_source(adapter, e.source->weights)),
      rate(rate_asked),
      compressor(e.be->load_compressor(gmsa::compressor_of(source.parts))),
      decoder(e.be->load(source.parts.decoder, {})) {}

cache_ptr read_soft(const evaluation& run, std::span<const token_t> ids, const std::string& name) {
  const soft_method& soft = run.soft();
  const bool past = run.options().method.past_context;
  const auto n = static_cast<index_t>(ids.size());
  if (soft.rate > n) {
    throw argument_error(name + ": --rate is " + std::to_string(soft.rate) + ", want at most the " +
                         std::to_string(n) + " tokens to compress");
  }
  const index_t context = soft.decoder->config().n_context;
  if (!past && context > 0 && n > context) {
    throw argument_error(name + ": " + std::to_string(n) +
                         " tokens are to be compressed, the model was trained for " +
                         std::to_string(context) + "; want a smaller --length, or --past-context");
  }
  const model::soft_prompt rows =
      soft.compressor->compress(ids, soft.rate, {run.sag().chunk, past}, [](index_t) {});
  const auto s =
      soft.decoder->go_on(soft.decoder->make_cache({.rule = soft_rule}), {run.sag().chunk, past});
  s->read_soft(rows);
  return s->take_cache();
}

void eval_restoring(evaluation& run) {
  const eval_options& o = run.options();
  for (const eval_method& m : run.methods()) {
    if (!m.soft) throw usage_error("--method " + m.name + " restores nothing, want gmsa");
  }
  const eval_method& method = run.methods().front();
  const std::vector<document> all = read_documents(o.data, o.keep_lines);
  std::vector<std::string> names;
  for (const document& d : all) names.push_back(d.name);
  const std::vector<token_t> prompt = run.engine().encode_text(o.prompt);
  const auto chosen = eval::sampled(names, o.limit, o.seed);
  std::vector<json> records;
  {
    progress bar("restoring", static_cast<index_t>(chosen.size()));
    for (const std::size_t i : chosen) {
      std::vector<token_t> ids = run.engine().encode_text(all[i].text);
      ids.resize(std::min(ids.size(), static_cast<std::size_t>(o.length)));
      const std::string what = all[i].name + " " + std::to_string(o.length) + " " + o.prompt + " " +
                               hex(xxh64(0).update(std::string_view(all[i].text)).digest());
      records.push_back(run.record(
          method, what, [&] { return restoring_record(run, method, all[i].name, ids, prompt); }));
      bar(static_cast<index_t>(records.size()));
    }
  }
  std::vector<json> figures;
  const auto add = [&](const std::string& metric, auto&& of) {
    figures.push_back(
        figure(metric, method.name,
               eval::bootstrap(
                   records.size(), [&](auto items) { return of(sum_of(records, items)); }, o.seed),
               records.size()));
  };
  add("bleu", [](const eval::restoration& r) { return eval::bleu(r); });
  add("token_accuracy", [](const eval::restoration& r) { return r.in_place / r.n_wanted; });
  add("exact_prefix", [](const eval::restoration& r) { return r.exact_prefix / r.n_wanted; });
  report(run, std::move(figures));
}

double soft_flops(const evaluation& run, index_t n_tokens) {
  const gmsa::host_parts& parts = run.soft().source.parts;
  const index_t n_soft = gmsa::merged_rows(n_tokens, run.soft().rate);
  const index_t n_slots = gmsa::slots_for(n_tokens, run.soft().rate, parts.slots.rows);
  const double sum = flops(parts.encoder, n_tokens + n_slots) + flops(parts.decoder, n_soft);
  if (!parts.alignment.blocks.empty()) return sum + flops(parts.alignment, n_soft);
  const auto weights = static_cast<double>(parts.linear.weight.rows * parts.linear.weight.cols);
  return sum + 2 * weights * static_cast<double>(n_soft);
}

}  // namespace gistkv::cli
