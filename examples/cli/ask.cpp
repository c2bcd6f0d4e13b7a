// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cli/arguments.hpp>
#include <cli/context_file.hpp>
#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/reading.hpp>
#include <cli/soft.hpp>
#include <cli/verbs.hpp>
#include <cli/writing.hpp>

namespace gistkv::cli {

namespace {

struct ask_options {
  std::string file;
  std::vector<std::string> questions;
  model_options model;
  method_options method;
  sampling_options sampling;
  std::string compare;
  bool no_template = false;
  bool json = false;
};

/// One method with its answers.
struct outcome {
  std::string method;
  json report;
  std::vector<answer> answers;

  double seconds_answering() const {
    double sum = 0;
    for (const answer& a : answers) sum += a.seconds;
    return sum;
  }
};

/// All questions on one context. Each gets a fork of its own, so none hears of the others.
outcome answer_all(const engine& e, context c, const method_settings& settings,
                   const ask_options& o, const text_sink& sink) {
  outcome result{settings.method, c.report, {}};
  result.report.update(engine_report(e));  // A file may have been written by another program.
  for (std::size_t i = 0; i < o.questions.size(); ++i) {
    if (o.questions.size() > 1) sink((i == 0 ? "> " : "\n> ") + o.questions[i] + "\n");
    const bool last = i + 1 == o.questions.size();
    context fork{last ? std::move(c.cache) : c.cache->fork(), c.stage, c.chat, {}, c.read, {}};
    result.answers.push_back(ask(e, std::move(fork), settings, o.sampling, o.questions[i], sink));
    sink("\n");
  }
  return result;
}

/// Further lines moved in, white space at the end gone.
std::string indented(const std::string& text) {
  std::string result;
  for (const char c : text.substr(0, text.find_last_not_of(" \n\t") + 1)) {
    result += c == '\n' ? "\n  " : std::string(1, c);
  }
  return result;
}

void print_comparison(const std::vector<outcome>& outcomes, const ask_options& o) {
  std::vector<std::vector<std::string>> table = {
      {"method", "rows held", "KV bytes", "ratio", "seconds to read", "seconds to answer"}};
  for (const outcome& x : outcomes) {
    const json& r = x.report;
    table.push_back({x.method, std::to_string(r["rows_held"].get<index_t>()),
                     bytes_text(r["kv_bytes_held"].get<std::uint64_t>()),
                     ratio_text(r["ratio_bytes"]),
                     r.contains("seconds") ? decimal(r["seconds"].get<double>(), 2) : "-",
                     decimal(x.seconds_answering(), 2)});
  }
  print_table(table);
  for (std::size_t i = 0; i < o.questions.size(); ++i) {
    print("\n> " + o.questions[i] + "\n");
    for (const outcome& x : outcomes) {
      print(x.method + ": " + indented(x.answers[i].text.shown) + "\n");
    }
  }
}

json outcome_report(const outcome& x) {
  json report = x.report;
  report["answers"] = json::array();
  for (const answer& a : x.answers) report["answers"].push_back(answer_report(a));
  return report;
}

void run(ask_options o) {
  require_model(o.model);
  check_sampling(o.sampling);
  for (std::string& q : o.questions) {
    q = unwrapped(q);
    if (q.empty()) throw usage_error("a question is empty");
  }
  std::uint64_t seed = o.sampling.sampler.seed;
  const bool from_context = is_context_file(o.file);
  std::optional<context_file> file;
  std::string text;
  method_settings settings;
  if (from_context) {
    file = load_context_file(o.file, o.method.cache_type, o.model.threads);
    settings = settings_of(*file, o.file, o.method, o.model, seed);
  } else {
    settings = resolve(o.method, o.model);
    text = read_text(o.file);
    if (text.empty()) throw argument_error(o.file + ": the text is empty");
  }
  std::vector<method_settings> others;
  for (const std::string& method : between_commas(o.compare)) {
    others.push_back(with_method(settings, method));
    if (settings.n_gist == 0 && others.back().n_gist > 0) {
      throw usage_error("--compare " + method + " needs gists: give --method " + method +
                        " and compare that with " + settings.method);
    }
    if (settings.method != "gmsa" && method == "gmsa") {
      throw usage_error(
          "--compare gmsa needs a compressor: give --method gmsa and compare that with " +
          settings.method);
    }
  }
  const engine e(file ? file->be : make_backend(o.method.cache_type, o.model.threads), o.model,
                 settings, seed);
  const bool stream = !o.json && others.empty();
  const text_sink sink = shown_unless(!stream);
  const bool chat = !o.no_template && e.has_chat();
  std::optional<context> c;
  if (from_context) {
    c = open_context(*std::move(file), o.file, e);
    if (c->stage == stage::text) text = c->text;
    if (settings.n_gist > 0) note_untrained(e, seed);
    if (e.soft) note_untrained_compressor(*e.soft);
  } else {
    c = read_context(e, settings, text, o.file, chat, seed);
  }
  if (!others.empty() && text.empty()) {
    throw argument_error(o.file + ": is a conversation, --compare needs the context of a text");
  }
  // Soft tokens stand in no template; what they are compared with does.
  const bool in_chat = e.soft ? chat : c->chat;
  settle(e, settings, *c);
  std::vector<outcome> outcomes;
  outcomes.push_back(answer_all(e, *std::move(c), settings, o, sink));
  for (const method_settings& other : others) {
    context again = read_context(e, other, text, o.file, in_chat, seed);
    outcomes.push_back(answer_all(e, std::move(again), other, o, sink));
  }
  if (o.json) {
    json report = outcome_report(outcomes[0]);
    if (!others.empty()) {
      report["compare"] = json::array();
      for (std::size_t i = 1; i < outcomes.size(); ++i) {
        report["compare"].push_back(outcome_report(outcomes[i]));
      }
    }
    report["peak_rss_bytes"] = peak_rss_bytes();
    print_json(report);
  } else if (!others.empty()) {
    print_comparison(outcomes, o);
  }
}

}  // namespace

void add_ask(CLI::App& app) {
  auto o = std::make_shared<ask_options>();
  CLI::App& verb = add_verb(app, "ask", "Answer questions on a text or on its compressed context");
  add_required(verb, "FILE", o->file, "Compressed context, or a text; - is stdin");
  add_required(verb, "QUESTION", o->questions, "Questions; each is asked on the same context");
  add_model_options(verb, o->model);
  add_method_options(verb, o->method);
  add_sampling_options(verb, o->sampling);
  add_seed(verb, o->sampling.sampler.seed);
  add_flag(
      verb, "--compare{full}", o->compare,
      "Answer with the full cache too, and print both; --compare=full,window chooses the methods");
  add_flag(verb, "--no-template", o->no_template,
           "Text and question stand by themselves, not in turns of the chat template");
  add_json(verb, o->json);
  add_example(verb,
              "gistkv ask /usr/share/common-licenses/GPL-2 \"What is a derivative work?\" "
              "--compare --model ~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { run(*o); });
}

}  // namespace gistkv::cli
