// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/eval.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include <cli/arguments.hpp>
#include <cli/errors.hpp>
#include <cli/reading.hpp>
#include <cli/verbs.hpp>
#include <gistkv/core/config.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/eval/scored_text.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::cli {

namespace {

constexpr std::array<std::string_view, 10> tasks = {
    "ppl", "compression", "speed", "needle", "kv", "qa", "mmlu", "choice", "longqa", "restore"};

/// Tasks in which a method writes behind what it has read.
bool writes_answers(std::string_view task) {
  return task == "needle" || task == "kv" || task == "qa" || task == "longqa";
}

/// The settings of sag, which baselines are measured against, from what the user said.
method_settings sag_settings(const eval_options& o) {
  method_options m = o.method;
  m.method = "sag";
  m.budget.reset();
  m.rate.reset();
  return resolve(m, o.model);
}

/// Of gmsa: what was said, or what the adapter was trained for. @throws usage_error.
index_t soft_rate(const eval_options& o) {
  method_options m;
  m.method = "gmsa";
  m.rate = o.method.rate;
  return resolve(m, {o.model.model, o.compressor, 0}).rate;
}

/// Of --budget, as a window takes it. @throws usage_error.
std::uint64_t budget_bytes(const std::string& said) {
  method_options window;
  window.method = "window";
  window.budget = said;
  return resolve(window).budget->bytes;
}

/// Records of a former run. A last line without an end was being written when the run ended.
std::map<std::string, json> read_records(const std::string& path) {
  std::map<std::string, json> known;
  std::ifstream file(path);
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (file.eof()) break;
    const std::string where = path + ":" + std::to_string(number);
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object() || !parsed.contains("key") || !parsed.contains("record")) {
      throw format_error(where + ": is no record of eval, expected {\"key\", \"record\"}");
    }
    known[parsed["key"].get<std::string>()] = parsed["record"];
  }
  return known;
}

/// Cuts a line that was being written when a run ended, so that the next one begins anew.
void cut_torn_line(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return;
  std::stringstream all;
  all << file.rdbuf();
  const std::string text = all.str();
  const std::size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
  if (whole < text.size() && ::truncate(path.c_str(), static_cast<off_t>(whole)) != 0) {
    throw io::file_error(path, "cut the line that an interrupted run left in",
                         std::error_code(errno, std::generic_category()));
  }
}

/// A path without its folders, which mean nothing on another machine.
std::string last_part(std::string path) {
  while (path.ends_with('/')) path.pop_back();
  return path.substr(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t at = line.find(':');
    if (line.starts_with("model name") && at != std::string::npos) return line.substr(at + 2);
  }
  return "unknown";
}

/// Mean index of the counted rows.
double mean_place(const std::vector<std::uint8_t>& counted) {
  double sum = 0;
  double n = 0;
  for (std::size_t i = 0; i < counted.size(); ++i) {
    if (counted[i] == 0) continue;
    sum += static_cast<double>(i);
    ++n;
  }
  return n > 0 ? sum / n : 0;
}

void run(const eval_options& o) {
  if (std::find(tasks.begin(), tasks.end(), o.task) == tasks.end()) {
    throw usage_error("eval: the task is '" + o.task + "', want one of " + listed(tasks));
  }
  require_model(o.model);
  if (o.limit < 0) {
    throw usage_error("--limit is " + std::to_string(o.limit) + ", want 0 (all) or more");
  }
  if (o.buckets < 0 || o.buckets > o.length) {
    throw usage_error("--positions is " + std::to_string(o.buckets) +
                      ", want 0 (none) to --length, a part of a token each");
  }
  if (o.max_tokens < 0) {
    throw usage_error("--max-tokens is " + std::to_string(o.max_tokens) +
                      ", want 0 (as many as the task has) or more");
  }
  if (o.length < 16) {
    throw usage_error("--length is " + std::to_string(o.length) + ", want 16 tokens or more");
  }
  if (o.windows < 1) {
    throw usage_error("--windows is " + std::to_string(o.windows) + ", want 1 or more");
  }
  if (o.data.empty() && o.task != "needle") {
    throw usage_error("--data is missing, want the file or directory with the samples");
  }
  if (o.method.budget && *o.method.budget == "match") {
    throw usage_error("--budget match is what eval does without --budget, want a number of bytes");
  }
  if (o.method.budget) budget_bytes(*o.method.budget);
  eval_options settled = o;
  if (settled.compressor.empty() && !o.model.adapter.empty() && is_soft_adapter(o.model.adapter)) {
    settled.compressor = std::exchange(settled.model.adapter, {});
  }
  evaluation e(settled);
  if (o.task == "ppl") return eval_perplexity(e);
  if (o.task == "compression") return eval_compression(e);
  if (o.task == "speed") return eval_speed(e);
  if (o.task == "restore") return eval_restoring(e);
  if (o.task == "needle") return eval_needle(e);
  if (o.task == "kv") return eval_questions(e, true);
  if (o.task == "qa" || o.task == "longqa") return eval_questions(e, false);
  return eval_choices(e, o.task == "mmlu");
}

}  // namespace

std::vector<eval_method> parse_methods(const eval_options& o, const method_settings& sag) {
  static constexpr std::array<std::string_view, 10> names = {
      "full",    "base",   "sag",        "gmsa",  "window",
      "uniform", "recent", "separators", "evict", "snapkv"};
  const index_t sink = o.method.sink.value_or(4);
  std::vector<eval_method> methods;
  for (const std::string& name : between_commas(o.method.method.value_or("full,sag"))) {
    eval_method m{name, {}, placing::none};
    eval::policy& p = m.policy;
    p.rule = {.n_gist = 0, .recent = 0, .n_sink = sink, .window = 0};
    p.rows = 1;
    if (name == "full") {
      // Sinks change nothing there, but the same rows in the same places give the same digits.
    } else if (name == "base") {
      m.base = true;
    } else if (name == "gmsa") {
      m.soft = true;
      p.rule = soft_rule;
    } else if (name == "sag" || name == "uniform") {
      p.rule = sag.cache.rule;
      m.placing = name == "sag" ? placing::sentences : placing::spread;
    } else if (name == "window" && writes_answers(o.task)) {
      // Question and answer would push out what the window had kept of the context, which no other
      // method has happen to it.
      p.eviction = eval::eviction::newest;
    } else if (name == "window") {
      p.rule.window = 1;
    } else if (name == "recent") {
      p.rule.n_sink = sag.cache.rule.n_sink;
      p.eviction = eval::eviction::sentences;
      p.sentences = sag.cache.rule.recent;
    } else if (name == "separators") {
      p.eviction = eval::eviction::separators;
    } else if (name == "evict") {
      p.eviction = eval::eviction::heavy_hitters;
    } else if (name == "snapkv") {
      p.eviction = eval::eviction::observed;
    } else {
      throw usage_error("--method is '" + name + "', want a list of " + listed(names));
    }
    const bool twice = std::any_of(methods.begin(), methods.end(),
                                   [&name](const eval_method& x) { return x.name == name; });
    if (twice) throw usage_error("--method names " + name + " twice");
    methods.push_back(m);
  }
  if (methods.empty()) throw usage_error("--method is empty, want a list of " + listed(names));
  return methods;
}

evaluation::evaluation(const eval_options& o)
    : options_(o),
      sag_(sag_settings(o)),
      methods_(parse_methods(o, sag_)),
      engine_(make_backend(o.method.cache_type, o.model.threads), o.model, sag_, o.seed),
      bytes_per_row_(engine_.model->make_cache({})->sizes().bytes_per_row) {
  const bool based =
      std::any_of(methods_.begin(), methods_.end(), [](const eval_method& m) { return m.base; });
  if (based) base_ = engine_.load_base();
  const bool soft =
      std::any_of(methods_.begin(), methods_.end(), [](const eval_method& m) { return m.soft; });
  if (!soft && (o.method.rate || !o.compressor.empty())) {
    throw usage_error("--rate and compressors have no meaning unless --method names gmsa");
  }
  if (soft) soft_ = std::make_unique<soft_method>(engine_, o.compressor, soft_rate(o));
  if (o.results.empty()) return;
  cut_torn_line(o.results);
  require_writable(o.results);
  known_ = read_records(o.results);
}

method_settings evaluation::writing_settings(const eval_method& m) const {
  method_settings s = sag_;
  s.method = m.name;
  s.cache.rule = m.policy.rule;
  s.n_gist = m.policy.rule.n_gist;
  return s;
}

json evaluation::record(const eval_method& m, const std::string& what,
                        const std::function<json()>& measure) {
  // Everything that a figure depends on: model, gist rows, method, how is computed, and the sample.
  json key;
  key["task"] = options_.task;
  // Raised for what has become another since: where spread gists are, and windows that stand still;
  // then how long an answer with gists may be.
  const bool placed_anew =
      m.placing == placing::spread || m.policy.eviction == eval::eviction::newest;
  const bool answers_longer = writes_answers(options_.task) && m.placing != placing::none;
  key["version"] = answers_longer ? 4 : placed_anew ? 3 : 1;
  key["model"] = hex(engine_.model_fingerprint());
  key["method"] = m.name;
  key["policy"] = {m.policy.rule.n_gist, m.policy.rule.recent, m.policy.rule.n_sink, m.policy.block,
                   m.policy.recent,      m.policy.observation, m.policy.pool};
  // Budgets are those of sag, so its gists and rule count for every method.
  key["rule"] = {sag_.rule, sag_.n_gist, sag_.cache.rule.recent, sag_.cache.rule.n_sink};
  key["budget"] = options_.method.budget.value_or("match");
  // LoRA on all rows changes every method but base; else only gists know of the adapter.
  const bool adapted = !engine_.gists.lora.on_all_rows.empty() && !m.base && !m.soft;
  if (m.soft) key["compressor"] = {hex(soft_->source.fingerprint), soft_->rate};
  if (m.placing != placing::none || adapted) key["gists"] = hex(engine_.gists.fingerprint);
  key["backend"] = {engine_.be->info().name, engine_.be->info().cache_type,
                    engine_.be->info().factor_type};
  if (options_.max_tokens > 0) key["max_tokens"] = options_.max_tokens;
  key["sample"] = what;
  const std::string digest = hex(xxh64(0).update(std::string_view(key.dump())).digest());
  if (const auto found = known_.find(digest); found != known_.end()) return found->second;
  const json record = measure();
  known_[digest] = record;
  if (!options_.results.empty()) {
    const signals_held hold;
    std::ofstream file(options_.results, std::ios::app | std::ios::binary);
    json line;
    line["key"] = digest;
    line["method"] = m.name;
    line["record"] = record;
    file << line.dump(-1, ' ', false, json::error_handler_t::replace) << '\n' << std::flush;
    if (!file)
      throw io::file_error(options_.results, "write",
                           std::error_code(errno, std::generic_category()));
  }
  return record;
}

json evaluation::settings() const {
  json s;
  s["task"] = options_.task;
  s["model"] = last_part(options_.model.model);
  s["model_fingerprint"] = hex(engine_.model_fingerprint());
  s["adapter"] = last_part(options_.model.adapter);
  s["gist_rows"] = engine_.gists.trained ? "trained" : "untrained";
  if (soft_) {
    s["compressor"] = soft_->source.trained ? last_part(options_.compressor) : "untrained";
    s["rate"] = soft_->rate;
    s["encoder_layers"] = soft_->source.parts.encoder.config.n_layers;
  }
  s["data"] = last_part(options_.data);
  s["limit"] = options_.limit;
  s["length"] = options_.length;
  if (options_.windows > 1) s["windows"] = options_.windows;
  s["seed"] = options_.seed;
  s["segmenter"] = sag_.rule;
  s["gists"] = sag_.n_gist;
  s["recent"] = sag_.cache.rule.recent;
  s["sink"] = sag_.cache.rule.n_sink;
  s["budget"] = options_.method.budget.value_or("as sag, on the same text");
  s["past_context"] = options_.method.past_context;
  // What only one task asks for.
  const std::string& task = options_.task;
  if (task == "needle") {
    s["depths"] = options_.depths;
    s["keys"] = options_.keys;
    if (options_.lines > 0) s["lines"] = options_.lines;
    s["values"] = options_.values;
  } else if (task == "qa" || task == "longqa" || task == "kv") {
    s["format"] = options_.format;
    s["contexts"] = options_.context_parts;
    s["shift"] = options_.shift;
  } else if (task == "mmlu") {
    s["shots"] = options_.shots;
  } else if (task == "restore") {
    s["prompt"] = options_.prompt;
  }
  // What is as it is unless it was asked for.
  if (options_.max_tokens > 0) s["max_tokens"] = options_.max_tokens;
  if (options_.keep_lines) s["keep_lines"] = true;
  if (options_.shuffle_labels) s["shuffle_labels"] = true;
  s["version"] = std::to_string(GISTKV_VERSION_MAJOR) + "." + std::to_string(GISTKV_VERSION_MINOR) +
                 "." + std::to_string(GISTKV_VERSION_PATCH);
  return s;
}

json evaluation::machine() const {
  json m = engine_report(engine_);
  m["cpu"] = cpu_model();
  return m;
}

laid_out lay_out(const evaluation& run, std::string_view text, bool chat) {
  auto one = [&](method_settings s, const std::string& method, index_t n_gist) {
    s.method = method;
    s.n_gist = n_gist;
    layout_writer writer(run.engine(), s);
    add_opening(run.engine(), writer, chat);
    writer.add_text(text);
    return writer.take();
  };
  return {one(run.sag(), "full", 0), one(run.sag(), "sag", run.sag().n_gist)};
}

planned_text plan(const evaluation& run, const eval_method& m, const laid_out& text,
                  const counted_rows& counted) {
  planned_text p{&run.model_of(m),
                 m.placing == placing::sentences ? text.gisted : text.plain,
                 m.policy,
                 0,
                 0,
                 {}};
  auto mean = [&](const text::gist_layout& rows, const eval::policy& policy) {
    return eval::mean_rows_read(policy, rows.is_gist, counted(rows), p.marked);
  };
  const auto& said = run.options().method.budget;
  if (said) {
    const double rows =
        static_cast<double>(budget_bytes(*said)) / static_cast<double>(run.bytes_per_row());
    p.wanted_rows = std::min(rows, mean(text.plain, everything));
  } else {
    p.wanted_rows = mean(text.gisted, {.rule = run.sag().cache.rule});
  }
  if (m.placing == placing::spread) {
    // Behind n tokens in periods of p stand about N_g n / p + (K + 1/2) p rows: fewest at the
    // period `turn`, n being the mean over the counted rows. So two periods hold as many as sag,
    // one of more gists and one of more raw rows; that on the side of the sentences' own mean
    // length is the opponent which differs in the places alone.
    const auto n_gist = static_cast<double>(m.policy.rule.n_gist);
    const auto n_rows = static_cast<double>(text.plain.n_rows());
    const double raw = static_cast<double>(m.policy.rule.recent) + 0.5;
    const double in_front = mean_place(counted(text.plain));
    const double turn = std::clamp(std::sqrt(n_gist * in_front / raw), 2.0, std::max(2.0, n_rows));
    const bool longer = n_gist * n_rows > turn * static_cast<double>(text.gisted.n_gist);
    auto spread = [&](double period) {
      return eval::spread_gists(text.plain, period, m.policy.rule.n_gist,
                                run.engine().model->first_gist());
    };
    constexpr int halvings = 30;
    double best = turn;
    double best_error = std::abs(mean(spread(turn), m.policy) - p.wanted_rows);
    double fewer = turn;  // Rows grow from here to `more`, on either side.
    double more = longer ? std::max(turn, n_rows) : 1;
    for (int i = 0; i < halvings; ++i) {
      const double middle = (fewer + more) / 2;
      const double found = mean(spread(middle), m.policy);
      if (std::abs(found - p.wanted_rows) < best_error) {
        best = middle;
        best_error = std::abs(found - p.wanted_rows);
      }
      (found > p.wanted_rows ? more : fewer) = middle;
    }
    p.rows = spread(best);
  } else if (p.policy.eviction == eval::eviction::sentences) {
    eval::marked_layout plain = eval::without_gists(text.gisted);
    p.rows = std::move(plain.rows);
    p.marked = std::move(plain.ends);
  } else {
    p.policy = eval::fitted(m.policy, counted(p.rows), p.wanted_rows);
  }
  p.mean_rows = mean(p.rows, p.policy);
  if (p.policy.eviction == eval::eviction::separators) {
    for (const token_t t : p.rows.ids) {
      p.marked.push_back(eval::is_separator(run.engine().codec().piece(t)) ? 1 : 0);
    }
  }
  return p;
}

std::vector<std::uint8_t> last_rows(const text::gist_layout& rows) {
  constexpr std::size_t n = 64;  // A block of evictions, and some sentences.
  std::vector<std::uint8_t> counted(rows.ids.size(), 0);
  for (std::size_t i = counted.size() > n ? counted.size() - n : 0; i < counted.size(); ++i) {
    counted[i] = rows.is_gist[i] != 0 ? 0 : 1;
  }
  return counted;
}

cache_ptr read_planned(const evaluation& run, const planned_text& p, const std::string& name,
                       std::span<const token_t> targets, std::vector<eval::token_score>* scores) {
  const bool past = run.options().method.past_context;
  const index_t context = p.model->config().n_context;
  if (!past && context > 0 && p.rows.n_rows() > context) {
    throw argument_error(name + ": " + std::to_string(p.rows.n_rows()) +
                         " positions (gists included) are needed, the model was trained for " +
                         std::to_string(context) + "; want a smaller --length, or --past-context");
  }
  cache_ptr cache = p.model->make_cache({.rule = p.policy.rule});
  auto found = p.model->read(*cache, p.policy, {p.rows.ids, p.marked, targets},
                             {run.sag().chunk, past}, [](index_t) {});
  if (scores != nullptr) *scores = std::move(found);
  return cache;
}

json figure(const std::string& metric, const std::string& method, const eval::estimate& value,
            std::size_t n) {
  json f;
  f["metric"] = metric;
  f["method"] = method;
  f["value"] = value.value;
  f["n"] = n;
  f["ci95"] = {value.low, value.high};
  return f;
}

void report(const evaluation& run, std::vector<json> figures) {
  const bool gists = std::any_of(run.methods().begin(), run.methods().end(),
                                 [](const eval_method& m) { return m.placing != placing::none; });
  if (gists) note_untrained(run.engine(), run.options().seed);
  const bool soft = std::any_of(run.methods().begin(), run.methods().end(),
                                [](const eval_method& m) { return m.soft; });
  if (soft) note_untrained_compressor(run.soft().source);
  if (run.options().json) {
    const json settings = run.settings();
    const json machine = run.machine();
    json rows = json::array();
    for (json& f : figures) {
      // What is particular to a figure stands in its settings too.
      json s = settings;
      if (f.contains("settings")) s.update(f["settings"]);
      f["settings"] = s;
      f["machine"] = machine;
      rows.push_back(std::move(f));
    }
    json document;
    document["rows"] = std::move(rows);
    return print_json(document);
  }
  std::vector<std::vector<std::string>> table = {
      {"metric", "method", "value", "95 % interval", "n"}};
  auto number = [](double x) { return decimal(x, std::abs(x) >= 1000 ? 0 : 4); };
  for (const json& f : figures) {
    std::string metric = f["metric"].get<std::string>();
    for (const char* detail : {"against", "lines", "depth", "bucket"}) {
      if (!f.contains("settings") || !f["settings"].contains(detail)) continue;
      const json& value = f["settings"][detail];
      metric += std::string(detail == std::string_view("against") ? " / " : ", ") +
                (detail == std::string_view("against") ? "" : std::string(detail) + " ") +
                (value.is_string() ? value.get<std::string>() : value.dump());
    }
    table.push_back(
        {metric, f["method"].get<std::string>(), number(f["value"].get<double>()),
         number(f["ci95"][0].get<double>()) + " - " + number(f["ci95"][1].get<double>()),
         f["n"].dump()});
  }
  print_table(table);
}

void add_eval(CLI::App& app) {
  auto o = std::make_shared<eval_options>();
  CLI::App& verb = add_verb(
      app, "eval", "Measure quality, memory and time of methods on the same text at equal bytes");
  add_required(verb, "TASK", o->task, "One of " + listed(tasks), "TASK");
  add_option(verb, "--data", o->data, "Samples: a file or a directory of texts", "FILE|DIR");
  add_option(verb, "--format", o->format,
             "Of questions, one of " + listed(question_formats) + " (default: by the path)",
             "NAME");
  add_option(verb, "--limit", o->limit, "Documents or questions; 0: all (10)", "N");
  add_option(verb, "--length", o->length, "Tokens of text a document or haystack (2048)", "N");
  add_option(verb, "--windows", o->windows,
             "Texts of --length from each document, at even distances (ppl, compression; 1)", "N");
  add_option(verb, "--results", o->results,
             "File of records (JSONL): what is in it is not measured again", "FILE");
  add_option(verb, "--ceilings", o->ceilings,
             "Peaks of the machine, as gistkv_bench_ceilings prints them: also the times over the "
             "least times that these allow (speed)",
             "FILE");
  add_option(verb, "--prompt", o->prompt,
             "What is asked for (restore; \"Restate the aforementioned Text.\")", "TEXT");
  add_option(verb, "--compressor", o->compressor,
             "Adapter of gmsa, where --adapter is that of gists", "FILE");
  add_option(verb, "--positions", o->buckets,
             "Also the perplexity by position, in so many parts of the text (ppl)", "N");
  add_option(verb, "--shots", o->shots, "Solved questions in front of each (mmlu; 5)", "N");
  add_option(verb, "--depths", o->depths, "Places in the haystack (needle; 3)", "N");
  add_option(verb, "--keys", o->keys, "Keys asked for at once (needle; 1)", "N");
  add_option(verb, "--lines", o->lines,
             "Lines hidden among the sentences of --data; without either as many as fit (needle)",
             "N");
  add_option(verb, "--values", o->values, "What is hidden: number or words (needle; number)",
             "KIND");
  add_option(verb, "--contexts", o->context_parts,
             "Contexts one behind the other, that of the question among them (qa; 1)", "N");
  add_flag(verb, "--shift", o->shift, "Put one token in front of the context (qa)");
  add_flag(verb, "--shuffle-labels", o->shuffle_labels,
           "Check of the check: right answers drawn at random (mmlu, choice)");
  add_option(verb, "--max-tokens", o->max_tokens, "Most tokens of an answer", "N");
  add_flag(verb, "--keep-lines", o->keep_lines, "Do not join the lines of .txt to paragraphs");
  add_model_options(verb, o->model);
  add_option(verb, "--method", o->method.method,
             "A list of full, base (without the adapter), sag, gmsa, window, uniform, recent (sag "
             "without its gists), separators, evict and snapkv (default full,sag)",
             "A,B,...");
  add_layout_options(verb, o->method);
  add_option(verb, "--sink", o->method.sink,
             "First rows that stay for ever (default 1 for sag, uniform and recent, or the "
             "adapter's; 4 for the others)",
             "S");
  add_option(
      verb, "--budget", o->method.budget,
      "Memory of the methods that are to be equal: bytes (4M, 4MiB) (default: as much as sag "
      "reads on that text)",
      "BYTES");
  add_seed(verb, o->seed);
  add_json(verb, o->json);
  add_example(verb,
              "gistkv eval ppl --method full,sag,window,uniform,separators,evict --data "
              "/usr/share/common-licenses/GPL-3 --limit 1 --model "
              "~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { run(*o); });
}

}  // namespace gistkv::cli
