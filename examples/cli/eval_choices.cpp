// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <cli/errors.hpp>
#include <cli/eval.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/eval/choices.hpp>

namespace gistkv::cli {

namespace {

constexpr std::string_view letters = "ABCDEFGHIJ";

std::string with_spaces(std::string text) {
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

std::string mmlu_question(const choice_question& q) {
  std::string text = q.text;
  for (std::size_t i = 0; i < q.choices.size(); ++i) {
    text += std::string("\n") + letters[i] + ". " + q.choices[i];
  }
  return text + "\nAnswer:";
}

/// A context and what may follow it.
struct prompt {
  std::string name;
  std::string context;
  std::vector<std::string> options;
  std::size_t answer = 0;
};

/// Log-probabilities of the options behind the context under a method. The last row of the context
/// is read with each option, since logits belong to the pass that reads a row.
json option_record(const evaluation& run, const eval_method& m, const prompt& q) {
  const engine& e = run.engine();
  planned_text p = plan(run, m, lay_out(run, q.context, false), last_rows);
  json r;
  r["rows"] = p.mean_rows;
  if (p.rows.n_rows() < 2) throw argument_error(q.name + ": the context has fewer than two rows");
  // Behind a boundary that has the space in front of it, the text goes on without one.
  std::size_t n = p.rows.ids.size();
  while (n > 0 && p.rows.is_gist[n - 1] != 0) --n;
  const bool spaced =
      n > 0 && p.rows.is_gist.back() != 0 && e.codec().piece(p.rows.ids[n - 1]).ends_with(' ');
  const token_t last = p.rows.ids.back();
  p.rows.ids.pop_back();
  p.rows.is_gist.pop_back();
  if (!p.marked.empty()) p.marked.pop_back();
  cache_ptr cache = read_planned(run, p, q.name);
  const eval::policy rest{.rule = p.policy.rule};
  std::vector<double> sums;
  std::vector<double> by_byte;
  for (const std::string& option : q.options) {
    const std::string text = spaced && option.starts_with(' ') ? option.substr(1) : option;
    std::vector<token_t> ids = {last};
    for (const token_t t : e.encode_text(text)) ids.push_back(t);
    std::vector<token_t> targets(ids.begin() + 1, ids.end());
    targets.push_back(-1);
    const cache_ptr fork = cache->fork();
    double sum = 0;
    for (const eval::token_score& s :
         p.model->read(*fork, rest, {ids, {}, targets},
                       {run.sag().chunk, run.options().method.past_context}, [](index_t) {})) {
      sum -= s.nll();
    }
    sums.push_back(sum);
    // Of the option as it was given, so that methods with and without that space divide alike.
    by_byte.push_back(sum / static_cast<double>(std::max<std::size_t>(1, option.size())));
  }
  r["log_probabilities"] = sums;
  r["by_byte"] = by_byte;
  return r;
}

std::vector<prompt> mmlu_prompts(const eval_options& o) {
  namespace fs = std::filesystem;
  std::string questions = o.data;
  std::string solved;
  std::error_code failure;
  if (fs::is_directory(o.data, failure)) {
    questions = (fs::path(o.data) / "val.jsonl").string();
    solved = (fs::path(o.data) / "dev.jsonl").string();
  } else {
    solved = (fs::path(o.data).parent_path() / "dev.jsonl").string();
  }
  std::map<std::string, std::string> shots;
  std::map<std::string, index_t> n_shots;
  if (o.shots > 0) {
    for (const choice_question& q : read_choices(solved)) {
      if (n_shots[q.subject]++ >= o.shots) continue;
      shots[q.subject] += mmlu_question(q) + " " + letters[q.answer] + "\n\n";
    }
  }
  std::vector<prompt> prompts;
  for (const choice_question& q : read_choices(questions)) {
    prompt p;
    p.name = q.name;
    if (q.choices.size() > letters.size()) {
      throw format_error(q.name + ": has " + std::to_string(q.choices.size()) +
                         " choices, at most " + std::to_string(letters.size()) + " are read");
    }
    p.context = "The following are multiple choice questions (with answers) about " +
                with_spaces(q.subject) + ".\n\n" + shots[q.subject] + mmlu_question(q);
    for (std::size_t i = 0; i < q.choices.size(); ++i) {
      p.options.push_back(std::string(" ") + letters[i]);
    }
    p.answer = q.answer;
    prompts.push_back(std::move(p));
  }
  return prompts;
}

std::vector<prompt> cloze_prompts(const eval_options& o) {
  std::vector<prompt> prompts;
  for (const choice_question& q : read_choices(o.data)) {
    prompt p{q.name, q.text, {}, q.answer};
    while (!p.context.empty() && p.context.back() == ' ') p.context.pop_back();
    const bool question = p.context.ends_with('?');
    if (question) p.context = "Question: " + p.context + "\nAnswer:";
    for (const std::string& c : q.choices) p.options.push_back(" " + c);
    prompts.push_back(std::move(p));
  }
  return prompts;
}

std::vector<double> doubles(const json& list) {
  std::vector<double> values;
  for (const json& x : list) values.push_back(x.get<double>());
  return values;
}

}  // namespace

void eval_choices(evaluation& run, bool mmlu) {
  const eval_options& o = run.options();
  if (o.shots < 0) throw usage_error("--shots is " + std::to_string(o.shots) + ", want 0 or more");
  for (const eval_method& m : run.methods()) {
    if (m.soft) throw usage_error("--method gmsa has no meaning under " + o.task);
  }
  std::vector<prompt> all = mmlu ? mmlu_prompts(o) : cloze_prompts(o);
  std::vector<std::string> names;
  for (const prompt& p : all) names.push_back(p.name);
  const auto chosen = eval::sampled(names, o.limit, o.seed);
  const std::size_t n_methods = run.methods().size();
  std::vector<std::vector<json>> records(n_methods);
  {
    progress bar(mmlu ? "mmlu" : "choices", static_cast<index_t>(chosen.size() * n_methods));
    index_t done = 0;
    for (const std::size_t i : chosen) {
      std::string key = all[i].context;
      for (const std::string& option : all[i].options) key += "\n" + option;
      for (std::size_t m = 0; m < n_methods; ++m) {
        const eval_method& method = run.methods()[m];
        records[m].push_back(run.record(method,
                                        hex(xxh64(0).update(std::string_view(key)).digest()),
                                        [&] { return option_record(run, method, all[i]); }));
        bar(++done);
      }
    }
  }
  if (o.shuffle_labels) {
    for (prompt& p : all) {
      random_generator random(xxh64(o.seed).update(std::string_view(p.name)).digest());
      p.answer = static_cast<std::size_t>(random.below(static_cast<index_t>(p.options.size())));
    }
  }
  std::vector<json> figures;
  auto add = [&](const std::string& metric, std::size_t m, const std::vector<double>& values,
                 const char* against) {
    json f =
        figure(metric, run.methods()[m].name,
               eval::bootstrap(
                   values.size(), [&](auto items) { return eval::mean_of(values, items); }, o.seed),
               values.size());
    if (*against != '\0') f["settings"]["against"] = against;
    figures.push_back(std::move(f));
  };
  auto correct = [&](std::size_t m, const char* field) {
    std::vector<double> values;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      values.push_back(
          eval::best_choice(doubles(records[m][i].at(field))) == all[chosen[i]].answer ? 1.0 : 0.0);
    }
    return values;
  };
  const std::string prefix = mmlu ? "mmlu_" : "choice_";
  for (std::size_t m = 0; m < n_methods; ++m) {
    add(prefix + "accuracy", m, correct(m, "log_probabilities"), "");
    if (!mmlu) add(prefix + "accuracy_by_length", m, correct(m, "by_byte"), "");
  }
  for (std::size_t b = 0; b < n_methods; ++b) {
    if (run.methods()[b].name != "full") continue;
    for (std::size_t m = 0; m < n_methods; ++m) {
      if (m == b) continue;
      std::vector<double> agree;
      std::vector<double> kl;
      std::vector<double> difference;
      const auto right = correct(m, "log_probabilities");
      const auto base = correct(b, "log_probabilities");
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        const auto p = doubles(records[b][i].at("log_probabilities"));
        const auto q = doubles(records[m][i].at("log_probabilities"));
        agree.push_back(eval::best_choice(p) == eval::best_choice(q) ? 1.0 : 0.0);
        kl.push_back(eval::option_divergence(p, q));
        difference.push_back(right[i] - base[i]);
      }
      add(prefix + "accuracy_difference", m, difference, "full");
      add(prefix + "agreement", m, agree, "full");
      add(prefix + "kl", m, kl, "full");
    }
  }
  report(run, std::move(figures));
}

}  // namespace gistkv::cli
