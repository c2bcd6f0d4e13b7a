// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstdint>
#include <memory>
#include <string>

#include <cli/context_file.hpp>
#include <cli/corpus.hpp>
#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/ranks.hpp>
#include <cli/reading.hpp>
#include <cli/text_source.hpp>
#include <cli/verbs.hpp>

namespace gistkv::cli {

namespace {

struct compress_options {
  std::string file;
  std::string corpus;
  std::string field = "text";
  std::string output;
  model_options model;
  method_options method;
  std::uint64_t seed = 0;
  bool no_template = false;
  bool json = false;
};

void print_report(const json& r, const engine& e) {
  const auto n = [&r](const char* key) { return std::to_string(r[key].get<index_t>()); };
  const auto bytes = [&r](const char* key) { return bytes_text(r[key].get<std::uint64_t>()); };
  print("read       " + n("n_text_tokens") + " tokens of text in " +
        decimal(r["seconds"].get<double>(), 2) + " s (" +
        decimal(r["tokens_per_second"].get<double>(), 0) + " tokens/s)\n");
  if (r["n_gist"].get<index_t>() > 0) {
    print("sentences  " + n("n_sentences") + ", gists " + n("n_gist") + ": " +
          ratio_text(r["ratio_tokens"]) + " tokens of text a gist\n");
  }
  if (r.contains("n_soft")) {
    print("soft       " + n("n_soft") + " tokens, one for " + n("rate") + " of the text, " +
          bytes("soft_bytes") + "\n");
  }
  print("held       " + n("rows_held") + " rows, " + bytes("kv_bytes_held") +
        "; a full cache has " + n("rows_full") + " rows, " + bytes("kv_bytes_full") + ": " +
        ratio_text(r["ratio_bytes"]) + " times as much\n");
  print("backend    " + r["backend"].get<std::string>() + ", cache of " +
        r["cache_type"].get<std::string>() + ", " + threads_text(e.be->info()) + "\n");
  print("wrote      " + r["output"].get<std::string>() + ", " + bytes("file_bytes") + "\n");
}

void print_corpus_report(const json& r, const engine& e) {
  const auto n = [&r](const char* key) { return std::to_string(r[key].get<index_t>()); };
  const auto bytes = [&r](const char* key) { return bytes_text(r[key].get<std::uint64_t>()); };
  print("read       " + n("documents") + " documents, " + n("n_text_tokens") +
        " tokens of text in " + decimal(r["seconds"].get<double>(), 2) + " s (" +
        decimal(r["tokens_per_second"].get<double>(), 0) + " tokens/s)\n");
  print("held       " + bytes("kv_bytes_held") + "; full caches have " + bytes("kv_bytes_full") +
        ": " + ratio_text(r["ratio_bytes"]) + " times as much\n");
  print("backend    " + r["backend"].get<std::string>() + ", cache of " +
        r["cache_type"].get<std::string>() + ", " + threads_text(e.be->info()) + " in each of " +
        n("ranks") + (r["ranks"] == 1 ? " process\n" : " processes\n"));
  print("wrote      " + r["output"].get<std::string>() + ", " + bytes("file_bytes") + "\n");
}

void compress_all(const compress_options& o) {
  const method_settings settings = resolve(o.method, o.model);
  if (!o.file.empty()) {
    throw usage_error("FILE is " + o.file + " and --corpus " + o.corpus + ", want one of them");
  }
  if (!is_jsonl(o.corpus)) {
    throw usage_error("--corpus is " + o.corpus + ", want a .jsonl or .jsonl.zst file");
  }
  const engine e(make_backend(o.method.cache_type, o.model.threads), o.model, settings, o.seed);
  const bool chat = !o.no_template && e.has_chat();
  const json r = compress_corpus({o.corpus, o.field, o.output}, e, settings, chat, o.seed);
  o.json ? print_json(r) : print_corpus_report(r, e);
}

void compress(compress_options o) {
  require_model(o.model);
  if (o.output == "-") throw usage_error("--output is '-', want a file or folder to write");
  if (!o.corpus.empty()) return compress_all(o);
  require_one_process("compress FILE");
  if (o.file.empty()) throw usage_error("FILE is missing, want a text, or --corpus and a file");
  const method_settings settings = resolve(o.method, o.model);
  const std::string text = read_text(o.file);
  if (text.empty()) throw argument_error(o.file + ": the text is empty");
  require_writable(o.output);
  const engine e(make_backend(o.method.cache_type, o.model.threads), o.model, settings, o.seed);
  const bool chat = !o.no_template && e.has_chat();
  context c = read_context(e, settings, text, o.file, chat, o.seed);
  const stopwatch saving;
  const std::uint64_t n_bytes = save_context(c, o.output, e, settings, o.seed);
  json& r = c.report;
  r["seconds_load"] = e.seconds_load;
  r["seconds_save"] = saving.seconds();
  r["output"] = o.output;
  r["file_bytes"] = n_bytes;
  r["peak_rss_bytes"] = peak_rss_bytes();
  o.json ? print_json(r) : print_report(r, e);
}

}  // namespace

void add_compress(CLI::App& app) {
  auto o = std::make_shared<compress_options>();
  CLI::App& verb = add_verb(app, "compress", "Read a text and write its compressed context");
  add_option(verb, "FILE", o->file, "Text; - is stdin");
  add_option(verb, "--corpus", o->corpus,
             "Many texts instead, one a line: each becomes a file in the folder -o, 000001.gkv and "
             "so on; processes that mpirun starts share the work",
             "C.jsonl");
  add_option(verb, "--field", o->field, "Of a line of the corpus, with the text", "NAME");
  add_required(verb, "-o,--output", o->output, "Compressed context to write, or a folder", "X.gkv");
  add_model_options(verb, o->model);
  add_method_options(verb, o->method);
  add_seed(verb, o->seed);
  add_flag(verb, "--no-template", o->no_template,
           "The text stands by itself, not in a user's turn of the chat template");
  add_json(verb, o->json);
  add_example(verb,
              "gistkv compress /usr/share/common-licenses/GPL-2 -o gpl.gkv --model "
              "~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { compress(*o); });
}

}  // namespace gistkv::cli
