// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
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
#include <gistkv/text/english.hpp>

namespace gistkv::cli {

namespace {

/// What a method writes on a question behind a context, and the rows that it held then.
struct reply {
  std::string text;
  double rows = 0;
  double rows_full = 0;
};

/// A context that a method has read, to ask more than one question about.
class asked_context {
 public:
  asked_context(const evaluation& run, const eval_method& m, const std::string& name,
                const std::string& context, bool chat)
      : run_(&run), method_(&m), chat_(chat) {
    if (m.soft) {
      // Soft tokens and prompt, without a template, as they are trained.
      const std::vector<token_t> ids = run.engine().encode_text(context);
      cache_ = read_soft(run, ids, name);
      rows_ = static_cast<double>(cache_->sizes().rows_held);
      rows_full_ = static_cast<double>(ids.size());
      return;
    }
    const laid_out text = lay_out(run, context, chat);
    const planned_text p = plan(run, m, text, last_rows);
    cache_ = read_planned(run, p, name);
    rows_ = p.mean_rows;
    rows_full_ = eval::mean_rows_read(everything, text.plain.is_gist, last_rows(text.plain));
  }

  reply ask(const std::string& question, index_t max_tokens) const {
    const engine& e = run_->engine();
    const method_settings settings = run_->writing_settings(*method_);
    layout_writer writer(e, settings);
    writer.add_verbatim(method_->soft ? question : "\n\n" + question);
    if (chat_ && !method_->soft) {
      writer.add_template(e.chat().user_closing_and_assistant_opening());
    }
    const text::gist_layout rows = writer.take();
    const bool past = run_->options().method.past_context;
    cache_ptr cache = cache_->fork();
    check_context(e, cache->ledger().next_position() + rows.n_rows(), past);
    const auto s = run_->model_of(*method_).go_on(std::move(cache), {settings.chunk, past});
    s->read(rows.ids, nullptr, [](index_t) {});
    sampling_options sampling;
    sampling.max_tokens = max_tokens;
    return {write(*s, e, settings, sampling, shown_unless(true)).generation.text, rows_,
            rows_full_};
  }

 private:
  const evaluation* run_;
  const eval_method* method_;
  bool chat_;
  cache_ptr cache_;
  double rows_ = 0;
  double rows_full_ = 0;
};

std::string digest(const std::string& text) {
  return hex(xxh64(0).update(std::string_view(text)).digest());
}

index_t answer_tokens(const evaluation& run, index_t usual) {
  return run.options().max_tokens > 0 ? run.options().max_tokens : usual;
}

/// A field of the records of a method, added up over the questions of each context: contexts are
/// drawn, not questions, of which one context may have several.
struct field_sums {
  std::vector<double> sums;
  std::vector<double> counts;
  std::size_t n = 0;

  field_sums(const std::vector<json>& records, const std::string& field) : n(records.size()) {
    std::map<std::string, std::size_t> of;
    for (const json& r : records) {
      const auto [at, is_new] = of.emplace(r.at("context").get<std::string>(), sums.size());
      if (is_new) {
        sums.push_back(0);
        counts.push_back(0);
      }
      sums[at->second] += r.at(field).get<double>();
      ++counts[at->second];
    }
  }
  double mean(std::span<const std::size_t> items) const {
    return eval::ratio_of_sums(sums, counts, items);
  }
};

/// The mean of a field over records, and of its difference from another method's.
void add_means(const evaluation& run, const std::vector<std::vector<json>>& all,
               const std::string& field, const std::string& metric, std::vector<json>& figures) {
  const std::uint64_t seed = run.options().seed;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const field_sums v(all[m], field);
    if (v.n == 0) continue;
    figures.push_back(figure(metric, run.methods()[m].name,
                             eval::bootstrap(
                                 v.sums.size(), [&](auto items) { return v.mean(items); }, seed),
                             v.n));
  }
  for (std::size_t b = 0; b < all.size(); ++b) {
    if (run.methods()[b].name != "full" || all[b].empty()) continue;
    const field_sums base(all[b], field);
    for (std::size_t m = 0; m < all.size(); ++m) {
      const field_sums v(all[m], field);
      if (m == b || v.counts != base.counts) continue;
      json f = figure(
          metric + "_difference", run.methods()[m].name,
          eval::bootstrap(
              v.sums.size(), [&](auto items) { return v.mean(items) - base.mean(items); }, seed),
          v.n);
      f["settings"]["against"] = "full";
      figures.push_back(std::move(f));
    }
  }
}

void add_ratio(const evaluation& run, const std::vector<std::vector<json>>& all,
               std::vector<json>& figures) {
  for (std::size_t m = 0; m < all.size(); ++m) {
    const field_sums full(all[m], "rows_full");
    const field_sums held(all[m], "rows");
    figures.push_back(
        figure("kv_ratio_bytes", run.methods()[m].name,
               eval::bootstrap(
                   full.sums.size(),
                   [&](auto items) { return eval::ratio_of_sums(full.sums, held.sums, items); },
                   run.options().seed),
               full.n));
  }
}

/// Haystacks of so many tokens: as many lines as fit, or --lines of them among sentences of --data.
class haystacks {
 public:
  explicit haystacks(const evaluation& run) : run_(&run) {
    const eval_options& o = run.options();
    if (o.data.empty()) return;
    index_t n_short = 0;
    for (const document& d : read_documents(o.data, o.keep_lines)) {
      std::vector<std::string> sentences;
      std::size_t begin = 0;
      for (const text::boundary& end : text::boundaries(text::english{}, d.text)) {
        const auto at = static_cast<std::size_t>(end.offset);
        std::string sentence = one_line(d.text.substr(begin, at - begin));
        while (sentence.ends_with(' ')) sentence.pop_back();
        if (!sentence.empty()) sentences.push_back(std::move(sentence));
        begin = at;
      }
      if (n_sentences_of(sentences, o.length) < sentences.size()) {
        texts_.push_back(std::move(sentences));
      } else {
        ++n_short;
      }
    }
    if (texts_.empty()) {
      throw argument_error(o.data + ": no text has sentences of " + std::to_string(o.length) +
                           " tokens, want longer texts or a smaller --length");
    }
    if (n_short > 0) {
      note(std::to_string(n_short) + (n_short == 1 ? " text has" : " texts have") + " fewer than " +
           std::to_string(o.length) + " tokens and " + (n_short == 1 ? "is" : "are") + " left out");
    }
  }

  eval::haystack make(std::uint64_t seed) const {
    const eval_options& o = run_->options();
    eval::haystack_options h;
    h.depths.clear();
    for (index_t d = 0; d < o.depths; ++d) {
      h.depths.push_back((static_cast<double>(d) + 0.5) / static_cast<double>(o.depths));
    }
    h.n_keys = o.keys;
    h.value = o.values == "words" ? eval::needle_value::words : eval::needle_value::number;
    if (texts_.empty()) return filled(h, seed);
    h.n_lines = o.lines;
    const std::vector<std::string>& all = texts_[static_cast<std::size_t>(seed) % texts_.size()];
    const eval::haystack none = eval::make_haystack(h, seed);
    const std::size_t n = n_sentences_of(all, o.length - n_tokens(none.text()));
    return eval::make_haystack(h, seed, std::span(all).first(n));
  }

 private:
  index_t n_tokens(const std::string& text) const {
    return static_cast<index_t>(run_->engine().encode_text(text).size());
  }

  /// How many of the first sentences have so many tokens at most.
  std::size_t n_sentences_of(const std::vector<std::string>& all, index_t most) const {
    std::size_t n = 0;
    while (n < all.size() && (most -= n_tokens("\n" + all[n])) >= 0) ++n;
    return n;
  }

  eval::haystack filled(eval::haystack_options h, std::uint64_t seed) const {
    const eval_options& o = run_->options();
    const index_t least = o.depths + o.keys - 1;
    h.n_lines = std::max<index_t>(least, 8);
    const double per_line = static_cast<double>(n_tokens(eval::make_haystack(h, seed).text())) /
                            static_cast<double>(h.n_lines);
    h.n_lines = std::max(least, static_cast<index_t>(static_cast<double>(o.length) / per_line));
    eval::haystack found = eval::make_haystack(h, seed);
    while (h.n_lines > least && n_tokens(found.text()) > o.length) {
      --h.n_lines;
      found = eval::make_haystack(h, seed);
    }
    return found;
  }

  const evaluation* run_;
  std::vector<std::vector<std::string>> texts_;  ///< Sentences.
};

json needle_record(const evaluation& run, const asked_context& context, const eval::haystack& h,
                   std::size_t depth) {
  constexpr index_t usual = 20;
  const std::vector<std::size_t> which = h.together(depth);
  const auto n_keys = static_cast<index_t>(which.size());
  const reply r = context.ask(h.question(depth), answer_tokens(run, usual * n_keys));
  double correct = 0;
  for (const std::size_t k : which) {
    const std::string& value = h.values[k];
    if (n_keys > 1) {
      correct += eval::contains_match(r.text, value);
    } else if (h.kind == "number") {
      correct += eval::number_match(r.text, value);
    } else {
      correct += eval::words_match(r.text, value);
    }
  }
  json record;
  record["context"] = digest(h.text());
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
  if (o.lines < 0 || (o.lines > 0) != !o.data.empty()) {
    throw usage_error("--lines says how many are hidden among the sentences of --data: want both");
  }
  const index_t n_asked = o.depths + o.keys - 1;
  if (o.lines > 0 && o.lines < n_asked) {
    throw usage_error("--lines is " + std::to_string(o.lines) + ", want at least " +
                      std::to_string(n_asked) + ", which --depths and --keys ask for");
  }
  const haystacks all_haystacks(run);
  const std::size_t n_methods = run.methods().size();
  std::vector<std::vector<json>> all(n_methods);
  std::vector<std::vector<json>> far(n_methods);
  std::vector<std::vector<std::vector<json>>> by_depth(static_cast<std::size_t>(o.depths),
                                                       std::vector<std::vector<json>>(n_methods));
  std::size_t n_lines = 0;
  {
    progress bar("needle", o.depths * o.limit * static_cast<index_t>(n_methods));
    index_t done = 0;
    for (index_t i = 0; i < o.limit; ++i) {
      const std::uint64_t seed = splitmix64(o.seed * 1'000'003 + static_cast<std::uint64_t>(i));
      const eval::haystack h = all_haystacks.make(seed);
      n_lines = std::max(n_lines, h.lines.size());
      const std::string name = "haystack " + std::to_string(i);
      // A window of sag's bytes sees a line if so few tokens follow it.
      const laid_out text = lay_out(run, h.text(), false);
      const double window = eval::mean_rows_read({.rule = run.sag().cache.rule},
                                                 text.gisted.is_gist, last_rows(text.gisted));
      std::vector<bool> outside;
      for (std::size_t d = 0; d < h.n_depths; ++d) {
        std::string behind;
        for (std::size_t l = h.asked[d] + 1; l < h.lines.size(); ++l) behind += h.lines[l] + "\n";
        outside.push_back(static_cast<double>(run.engine().encode_text(behind).size()) >= window);
      }
      for (std::size_t m = 0; m < n_methods; ++m) {
        const eval_method& method = run.methods()[m];
        std::optional<asked_context> context;
        for (std::size_t d = 0; d < h.n_depths; ++d) {
          const std::string what = digest(h.text()) + " " + h.question(d);
          const json r = run.record(method, what, [&] {
            if (!context) context.emplace(run, method, name, h.text(), false);
            return needle_record(run, *context, h, d);
          });
          all[m].push_back(r);
          by_depth[d][m].push_back(r);
          if (outside[d]) far[m].push_back(r);
          bar(++done);
        }
      }
    }
  }
  std::vector<json> figures;
  add_means(run, all, "correct", "needle_accuracy", figures);
  add_means(run, far, "correct", "needle_accuracy_outside_window", figures);
  for (index_t d = 0; d < o.depths; ++d) {
    const double depth = (static_cast<double>(d) + 0.5) / static_cast<double>(o.depths);
    std::vector<json> here;
    add_means(run, by_depth[static_cast<std::size_t>(d)], "correct", "needle_accuracy_at_depth",
              here);
    for (json& f : here) {
      if (f["metric"] != "needle_accuracy_at_depth") continue;
      f["settings"]["depth"] = depth;
      f["settings"]["lines"] = o.lines > 0 ? static_cast<std::size_t>(o.lines) : n_lines;
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
      std::string what = digest(context) + " " + asked;
      for (const std::string& a : q.answers) what += "\n" + a;
      for (std::size_t m = 0; m < run.methods().size(); ++m) {
        const eval_method& method = run.methods()[m];
        records[m].push_back(run.record(method, what, [&] {
          constexpr index_t usual_value = 64;
          constexpr index_t usual_phrase = 32;
          const reply r =
              asked_context(run, method, q.name, context, chat)
                  .ask(asked, answer_tokens(run, key_values ? usual_value : usual_phrase));
          const std::string answer = eval::first_line(r.text);
          json record;
          record["context"] = digest(context);
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
