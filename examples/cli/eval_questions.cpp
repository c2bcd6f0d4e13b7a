// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <cli/reading.hpp>
#include <cli/writing.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/eval/answers.hpp>
#include <gistkv/eval/needle.hpp>

namespace gistkv::cli {

namespace {

/// What a method writes on a question behind a context, and the rows that it held then.
struct reply {
  std::string text;
  double rows = 0;
  double rows_full = 0;
};

reply answered(const evaluation& run, const eval_method& m, const std::string& name,
               const std::string& context, const std::string& question, bool chat,
               index_t max_tokens) {
  const engine& e = run.engine();
  const method_settings settings = run.writing_settings(m);
  layout_writer writer(e, settings);
  reply r;
  cache_ptr cache;
  if (m.soft) {
    // Soft tokens and prompt, without a template, as they are trained.
    const std::vector<token_t> ids = e.encode_text(context);
    cache = read_soft(run, ids, name);
    r.rows = static_cast<double>(cache->sizes().rows_held);
    r.rows_full = static_cast<double>(ids.size());
    writer.add_verbatim(question);
  } else {
    const laid_out text = lay_out(run, context, chat);
    const planned_text p = plan(run, m, text, last_rows);
    cache = read_planned(run, p, name);
    const eval::policy everything{.rule = {.n_gist = 0, .recent = 0, .n_sink = 0, .window = 0}};
    r.rows = p.mean_rows;
    r.rows_full = eval::mean_rows_read(everything, text.plain.is_gist, last_rows(text.plain));
    writer.add_verbatim("\n\n" + question);
    if (chat) writer.add_template(e.chat().user_closing_and_assistant_opening());
  }
  const text::gist_layout rows = writer.take();
  const bool past = run.options().method.past_context;
  check_context(e, cache->ledger().next_position() + rows.n_rows(), past);
  const auto s = run.model_of(m).go_on(std::move(cache), {settings.chunk, past});
  s->read(rows.ids, nullptr, [](index_t) {});
  sampling_options sampling;
  sampling.max_tokens = max_tokens;
  r.text = write(*s, e, settings, sampling, shown_unless(true)).generation.text;
  return r;
}

std::string digest(const std::string& text) {
  return hex(xxh64(0).update(std::string_view(text)).digest());
}

index_t answer_tokens(const evaluation& run, index_t usual) {
  return run.options().max_tokens > 0 ? run.options().max_tokens : usual;
}

/// The mean of a field over records, and of its difference from another method's.
void add_means(const evaluation& run, const std::vector<std::vector<json>>& all,
               const std::string& field, const std::string& metric, std::vector<json>& figures) {
  auto values = [&](std::size_t m) {
    std::vector<double> v;
    for (const json& r : all[m]) v.push_back(r.at(field).get<double>());
    return v;
  };
  const std::uint64_t seed = run.options().seed;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const auto v = values(m);
    if (v.empty()) continue;
    figures.push_back(
        figure(metric, run.methods()[m].name,
               eval::bootstrap(
                   v.size(), [&](auto items) { return eval::mean_of(v, items); }, seed),
               v.size()));
  }
  for (std::size_t b = 0; b < all.size(); ++b) {
    if (run.methods()[b].name != "full" || all[b].empty()) continue;
    const auto base = values(b);
    for (std::size_t m = 0; m < all.size(); ++m) {
      if (m == b || all[m].size() != base.size()) continue;
      const auto v = values(m);
      json f = figure(
          metric + "_difference", run.methods()[m].name,
          eval::bootstrap(
              v.size(),
              [&](auto items) { return eval::mean_of(v, items) - eval::mean_of(base, items); },
              seed),
          v.size());
      f["settings"]["against"] = "full";
      figures.push_back(std::move(f));
    }
  }
}

void add_ratio(const evaluation& run, const std::vector<std::vector<json>>& all,
               std::vector<json>& figures) {
  for (std::size_t m = 0; m < all.size(); ++m) {
    std::vector<double> full;
    std::vector<double> held;
    for (const json& r : all[m]) {
      full.push_back(r.at("rows_full").get<double>());
      held.push_back(r.at("rows").get<double>());
    }
    figures.push_back(
        figure("kv_ratio_bytes", run.methods()[m].name,
               eval::bootstrap(
                   full.size(), [&](auto items) { return eval::ratio_of_sums(full, held, items); },
                   run.options().seed),
               full.size()));
  }
}

/// As many lines as fit into so many tokens.
eval::haystack fitting_haystack(const engine& e, const eval_options& o, double depth,
                                std::uint64_t seed) {
  eval::haystack_options h;
  h.depth = depth;
  h.n_keys = o.keys;
  h.value = o.values == "words" ? eval::needle_value::words : eval::needle_value::number;
  h.n_lines = std::max<index_t>(o.keys, 8);
  const auto tokens = [&e](const eval::haystack& x) {
    return static_cast<double>(e.encode_text(x.text()).size());
  };
  const double per_line = tokens(eval::make_haystack(h, seed)) / static_cast<double>(h.n_lines);
  h.n_lines = std::max(o.keys, static_cast<index_t>(static_cast<double>(o.length) / per_line));
  eval::haystack found = eval::make_haystack(h, seed);
  while (h.n_lines > o.keys && tokens(found) > static_cast<double>(o.length)) {
    --h.n_lines;
    found = eval::make_haystack(h, seed);
  }
  return found;
}

json needle_record(const evaluation& run, const eval_method& m, const eval::haystack& h,
                   const std::string& name) {
  constexpr index_t usual = 20;
  const auto n_keys = static_cast<index_t>(h.keys.size());
  const reply r =
      answered(run, m, name, h.text(), h.question(), false, answer_tokens(run, usual * n_keys));
  double correct = 0;
  for (const std::string& value : h.values) {
    if (n_keys > 1) {
      correct += eval::contains_match(r.text, value);
    } else if (h.kind == "number") {
      correct += eval::number_match(r.text, value);
    } else {
      correct += eval::words_match(r.text, value);
    }
  }
  json record;
  record["correct"] = correct / static_cast<double>(n_keys);
  record["rows"] = r.rows;
  record["rows_full"] = r.rows_full;
  record["text"] = r.text;
  return record;
}

/// The first question's context with those of others around it; where it stands is drawn too.
std::string joined_contexts(const std::vector<question>& all, std::size_t of, index_t parts,
                            std::uint64_t seed) {
  std::vector<std::string> contexts = {all[of].context};
  random_generator random(xxh64(seed).update(std::string_view(all[of].name)).digest());
  for (int tries = 0; static_cast<index_t>(contexts.size()) < parts && tries < 10'000; ++tries) {
    const auto other = static_cast<std::size_t>(random.below(static_cast<index_t>(all.size())));
    const std::string& context = all[other].context;
    if (std::find(contexts.begin(), contexts.end(), context) == contexts.end()) {
      contexts.push_back(context);
    }
  }
  std::swap(
      contexts[0],
      contexts[static_cast<std::size_t>(random.below(static_cast<index_t>(contexts.size())))]);
  std::string joined;
  for (const std::string& c : contexts) joined += (joined.empty() ? "" : "\n\n") + c;
  return joined;
}

}  // namespace

void eval_needle(evaluation& run) {
  const eval_options& o = run.options();
  if (o.values != "number" && o.values != "words") {
    throw usage_error("--values is '" + o.values + "', want number or words");
  }
  if (o.depths < 1 || o.limit < 1 || o.keys < 1) {
    throw usage_error("--depths, --limit and --keys want 1 or more");
  }
  const std::size_t n_methods = run.methods().size();
  std::vector<std::vector<json>> all(n_methods);
  std::vector<std::vector<json>> far(n_methods);
  std::vector<std::vector<std::vector<json>>> by_depth(static_cast<std::size_t>(o.depths),
                                                       std::vector<std::vector<json>>(n_methods));
  std::size_t n_lines = 0;
  {
    progress bar("needle", o.depths * o.limit * static_cast<index_t>(n_methods));
    index_t done = 0;
    for (index_t d = 0; d < o.depths; ++d) {
      const double depth = (static_cast<double>(d) + 0.5) / static_cast<double>(o.depths);
      for (index_t i = 0; i < o.limit; ++i) {
        const std::uint64_t seed = splitmix64(o.seed * 1'000'003 + static_cast<std::uint64_t>(i));
        const eval::haystack h = fitting_haystack(run.engine(), o, depth, seed);
        n_lines = std::max(n_lines, h.lines.size());
        const std::string name = "haystack " + std::to_string(i) + ", depth " + decimal(depth, 2);
        // A window of sag's bytes sees the line if so few tokens follow it.
        std::string behind;
        for (std::size_t l = h.asked[0] + 1; l < h.lines.size(); ++l) behind += h.lines[l] + "\n";
        const laid_out text = lay_out(run, h.text(), false);
        const double window = eval::mean_rows_read({.rule = run.sag().cache.rule},
                                                   text.gisted.is_gist, last_rows(text.gisted));
        const bool outside = static_cast<double>(run.engine().encode_text(behind).size()) >= window;
        for (std::size_t m = 0; m < n_methods; ++m) {
          const eval_method& method = run.methods()[m];
          const json r = run.record(method, digest(h.text() + h.question()),
                                    [&] { return needle_record(run, method, h, name); });
          all[m].push_back(r);
          by_depth[static_cast<std::size_t>(d)][m].push_back(r);
          if (outside) far[m].push_back(r);
          bar(++done);
        }
      }
    }
  }
  std::vector<json> figures;
  add_means(run, all, "correct", "needle_accuracy", figures);
  std::vector<json> outside;
  add_means(run, far, "correct", "needle_accuracy_outside_window", outside);
  figures.insert(figures.end(), outside.begin(), outside.end());
  for (index_t d = 0; d < o.depths; ++d) {
    const double depth = (static_cast<double>(d) + 0.5) / static_cast<double>(o.depths);
    std::vector<json> here;
    add_means(run, by_depth[static_cast<std::size_t>(d)], "correct", "needle_accuracy_at_depth",
              here);
    for (json& f : here) {
      if (f["metric"] != "needle_accuracy_at_depth") continue;
      f["settings"]["depth"] = depth;
      f["settings"]["lines"] = n_lines;
      figures.push_back(std::move(f));
    }
  }
  add_ratio(run, all, figures);
  report(run, std::move(figures));
}

void eval_questions(evaluation& run, bool key_values) {
  const eval_options& o = run.options();
  if (o.context_parts < 1) {
    throw usage_error("--contexts is " + std::to_string(o.context_parts) + ", want 1 or more");
  }
  const std::vector<question> all =
      read_questions(o.data, key_values && o.format.empty() ? "kv" : o.format);
  std::vector<std::string> names;
  for (const question& q : all) names.push_back(q.name);
  const auto chosen = eval::sampled(names, o.limit, o.seed);
  const bool chat = !key_values && run.engine().has_chat();
  std::vector<std::vector<json>> records(run.methods().size());
  {
    progress bar("questions", static_cast<index_t>(chosen.size() * run.methods().size()));
    index_t done = 0;
    for (const std::size_t i : chosen) {
      const question& q = all[i];
      std::string context = joined_contexts(all, i, o.context_parts, o.seed);
      if (o.shift) context = "\n" + context;
      const std::string asked =
          key_values ? q.text : q.text + "\nAnswer with a short phrase from the text.";
      for (std::size_t m = 0; m < run.methods().size(); ++m) {
        const eval_method& method = run.methods()[m];
        records[m].push_back(run.record(method, digest(context + "\n" + asked), [&] {
          constexpr index_t usual_value = 64;
          constexpr index_t usual_phrase = 32;
          const reply r = answered(run, method, q.name, context, asked, chat,
                                   answer_tokens(run, key_values ? usual_value : usual_phrase));
          const std::string answer = eval::first_line(r.text);
          json record;
          record["text"] = r.text;
          record["rows"] = r.rows;
          record["rows_full"] = r.rows_full;
          record["em"] = eval::best_over(answer, q.answers, eval::exact_match);
          record["f1"] = eval::best_over(answer, q.answers, eval::token_f1);
          record["contains"] = eval::best_over(r.text, q.answers, eval::contains_match);
          return record;
        }));
        bar(++done);
      }
    }
  }
  std::vector<json> figures;
  if (key_values) {
    add_means(run, records, "contains", "kv_accuracy", figures);
  } else {
    add_means(run, records, "em", "em", figures);
    add_means(run, records, "f1", "f1", figures);
    add_means(run, records, "contains", "contains", figures);
  }
  add_ratio(run, records, figures);
  report(run, std::move(figures));
}

}  // namespace gistkv::cli
