// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <cli/reading.hpp>
#include <cli/writing.hpp>
#include <gistkv/eval/work.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::cli {

namespace {

/// What the machine can do at most, measured.
struct peaks {
  double flops = 0;  ///< bf16 products, a second.
  double bytes = 0;  ///< Read from memory, a second.
};

/// @throws format_error naming what is wrong.
peaks read_peaks(const std::string& path) {
  const nlohmann::json found = io::parse_strict_json(read_text(path), path);  // Borrowed below.
  const io::json_fields fields(found, path);
  const peaks p{1e9 * fields.get<double>("bf16_gflops"), 1e9 * fields.get<double>("bandwidth_gbs")};
  if (!(p.flops > 0 && p.bytes > 0)) {
    throw format_error(path + ": bf16_gflops and bandwidth_gbs are " + decimal(p.flops * 1e-9, 1) +
                       " and " + decimal(p.bytes * 1e-9, 1) + ", want more than 0");
  }
  return p;
}

/// Operations of attention over all rows of a text: 4 head_dim for each query head and visible key.
double attention_flops(const model::model_config& c, const planned_text& p) {
  double pairs = 0;
  for (const index_t read : eval::rows_read(p.policy, p.rows.is_gist, p.marked)) {
    pairs += static_cast<double>(read);
  }
  return static_cast<double>(4 * c.head_dim * c.n_heads * c.n_layers) * pairs;
}

}  // namespace

/// Times of reading a text and of writing behind it, a method after the other on each text, so that
/// a slow minute of the machine meets all of them. Never from the file of records.
void eval_speed(evaluation& run) {
  const eval_options& o = run.options();
  const engine& e = run.engine();
  const std::vector<document> all = read_documents(o.data, o.keep_lines);
  std::vector<std::string> names;
  for (const document& d : all) names.push_back(d.name);
  struct times {
    std::vector<double> read, first, write, total, n_text, n_written, bytes, flops, least_read,
        least_write;
  };
  std::optional<peaks> most;
  if (!o.ceilings.empty()) most = read_peaks(o.ceilings);
  const eval::linear_work linears(e.source->weights);
  std::vector<times> found(run.methods().size());
  sampling_options sampling;
  sampling.max_tokens = o.max_tokens > 0 ? o.max_tokens : 64;
  sampling.ignore_eos = true;
  for (const std::size_t i : eval::sampled(names, o.limit, o.seed)) {
    std::vector<token_t> ids =
        e.encode_text(all[i].text.substr(0, 8 * static_cast<std::size_t>(o.length)));
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(o.length)));
    const std::string text = e.decode(ids);
    const laid_out rows = lay_out(run, text, false);
    ids = e.encode_text(text);
    for (std::size_t m = 0; m < found.size(); ++m) {
      const eval_method& method = run.methods()[m];
      const planned_text p = method.soft ? planned_text{} : plan(run, method, rows, last_rows);
      const stopwatch total;
      cache_ptr cache =
          method.soft ? read_soft(run, ids, all[i].name) : read_planned(run, p, all[i].name);
      const double seconds_read = total.seconds();
      const cache_sizes sizes = cache->sizes();
      const method_settings settings = run.writing_settings(method);
      const resident_model& model = run.model_of(method);
      const auto s = model.go_on(std::move(cache), {settings.chunk, o.method.past_context});
      // Logits exist behind a token that is read here: the first of a line.
      const std::vector<token_t> next = e.encode_text("\n");
      s->read(next, nullptr, [](index_t) {});
      const double seconds_first = total.seconds();
      const written w = write(*s, e, settings, sampling, shown_unless(true));
      times& t = found[m];
      t.read.push_back(seconds_read);
      t.first.push_back(seconds_first);
      t.write.push_back(w.seconds);
      t.total.push_back(total.seconds());
      t.n_text.push_back(static_cast<double>(rows.plain.n_regular));
      t.n_written.push_back(static_cast<double>(w.generation.n_regular));
      t.bytes.push_back(static_cast<double>(sizes.bytes_held));
      t.flops.push_back(method.soft ? soft_flops(run, static_cast<index_t>(ids.size()))
                                    : static_cast<double>(p.rows.n_rows()) * linears.flops +
                                          attention_flops(model.config(), p));
      if (!most) continue;
      t.least_read.push_back(t.flops.back() / most->flops);
      // Each token reads all weights, and the rows that stood behind the text: rows written since
      // are left out, so the floor is not set too high.
      const double step = linears.bytes + static_cast<double>(sizes.bytes_held);
      t.least_write.push_back(t.n_written.back() * step / most->bytes);
    }
  }
  std::vector<json> figures;
  for (std::size_t m = 0; m < found.size(); ++m) {
    const times& t = found[m];
    auto add = [&](const std::string& metric, const std::vector<double>& over,
                   const std::vector<double>& under) {
      figures.push_back(
          figure(metric, run.methods()[m].name,
                 eval::bootstrap(
                     over.size(),
                     [&](auto items) { return eval::ratio_of_sums(over, under, items); }, o.seed),
                 over.size()));
    };
    const std::vector<double> ones(t.read.size(), 1.0);
    add("prefill_tokens_per_second", t.n_text, t.read);
    add("seconds_first_token", t.first, ones);
    add("decode_tokens_per_second", t.n_written, t.write);
    add("seconds_end_to_end", t.total, ones);
    add("kv_bytes_held", t.bytes, ones);
    const auto full = std::find_if(run.methods().begin(), run.methods().end(),
                                   [](const eval_method& x) { return x.name == "full"; });
    if (run.methods()[m].soft && full != run.methods().end()) {
      // What fewer operations of reading allow, where nothing else costs anything.
      const times& other = found[static_cast<std::size_t>(full - run.methods().begin())];
      add("end_to_end_gain", other.total, t.total);
      add("prefill_gain", other.read, t.read);
      add("prefill_gain_counted", other.flops, t.flops);
    }
    if (!most) continue;
    add("prefill_time_over_floor", t.read, t.least_read);
    add("decode_time_over_floor", t.write, t.least_write);
  }
  report(run, std::move(figures));
}

}  // namespace gistkv::cli
