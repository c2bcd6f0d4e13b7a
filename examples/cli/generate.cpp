// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/reading.hpp>
#include <cli/verbs.hpp>
#include <cli/writing.hpp>
#include <gistkv/text/boundary.hpp>
#include <gistkv/text/gist_layout.hpp>

namespace gistkv::cli {

namespace {

struct generate_options {
  std::optional<std::string> prompt;
  std::string file;
  model_options model;
  method_options method;
  sampling_options sampling;
  bool no_bos = false;
  bool json = false;
};

text::gist_layout lay_out_prompt(const engine& e, const method_settings& settings,
                                 std::string_view prompt, bool bos) {
  text::any_segmenter segmenter = settings.segmenter();
  text::open_end sentences(segmenter);
  text::gist_layout_builder builder(settings.n_gist, e.model->first_gist());
  if (bos && e.tokens.add_bos() && e.tokens.bos()) {
    builder.append_verbatim(std::vector<token_t>{*e.tokens.bos()});
  }
  const auto encode = [&e](std::string_view piece, std::vector<token_t>& out) {
    e.codec().encode(piece, out);
  };
  builder.append_text(sentences, prompt, encode);
  builder.finish_text(sentences, encode);
  return builder.take();
}

void run(generate_options o) {
  require_model(o.model);
  check_sampling(o.sampling);
  const method_settings settings = resolve(o.method, o.model);
  if (settings.method == "gmsa") throw usage_error("--method gmsa is for compress and ask");
  if (o.prompt.has_value() == !o.file.empty()) {
    throw usage_error("generate: want either a PROMPT or -f FILE");
  }
  const std::string prompt = o.prompt ? *o.prompt : read_text(o.file);
  if (prompt.empty()) {
    throw argument_error((o.file.empty() ? "the prompt" : o.file + ": the prompt") + " is empty");
  }
  const std::uint64_t seed = o.sampling.sampler.seed;
  const engine e(make_backend(o.method.cache_type, o.model.threads), o.model, settings, seed);
  const text::gist_layout rows = lay_out_prompt(e, settings, prompt, !o.no_bos);
  const auto s = e.model->go_on(make_cache(e, settings), {settings.chunk, settings.past_context});
  check_context(e, rows.n_rows() + 1, settings.past_context);
  if (settings.n_gist > 0) note_untrained(e, seed);

  const stopwatch reading;
  std::vector<index_t> rows_prompt;
  read_rows(*s, rows, "reading", &rows_prompt);
  const double seconds_read = reading.seconds();
  const written w = write(*s, e, settings, o.sampling, shown_unless(o.json), prompt);
  if (!o.json) return print("\n");
  json report;
  report["method"] = settings.method;
  if (settings.n_gist > 0) {
    report["segmenter"] = settings.rule;
    report["gists"] = settings.n_gist;
  }
  report["prompt_ids"] = rows.ids;
  report["ids"] = w.generation.ids;
  report["text"] = w.generation.text;
  report["n_tokens"] = w.generation.n_regular;
  report["n_gist"] = static_cast<index_t>(w.generation.ids.size()) - w.generation.n_regular;
  report["n_forwards"] = w.generation.n_forwards;
  report["kv_rows_prompt"] = rows_prompt;
  report["kv_rows"] = w.generation.rows_after;
  report.update(cache_report(*s->take_cache()));
  report["stop_reason"] = w.stop_reason;
  report["seconds_load"] = e.seconds_load;
  report["seconds_prompt"] = seconds_read;
  report["prompt_tokens_per_second"] = static_cast<double>(rows.n_regular) / seconds_read;
  report["seconds"] = w.seconds;
  report["tokens_per_second"] = writing_rate(w);
  report.update(engine_report(e));
  report["peak_rss_bytes"] = peak_rss_bytes();
  print_json(report);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto o = std::make_shared<generate_options>();
  CLI::App& verb =
      add_verb(app, "generate", "Continue a text while the cache shrinks at each sentence end");
  add_option(verb, "PROMPT", o->prompt, "Text to continue");
  add_option(verb, "-f,--file", o->file, "File with the text to continue; - is stdin", "FILE");
  add_model_options(verb, o->model);
  add_method_options(verb, o->method);
  add_sampling_options(verb, o->sampling);
  add_seed(verb, o->sampling.sampler.seed);
  add_flag(verb, "--no-bos", o->no_bos, "Never put bos in front, whatever the model says");
  add_json(verb, o->json);
  add_example(verb,
              "gistkv generate \"Once upon a time\" --method full --max-tokens 40 --model "
              "~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { run(*o); });
}

}  // namespace gistkv::cli
