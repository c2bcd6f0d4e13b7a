// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>
#include <string>
#include <vector>

#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/verbs.hpp>
#include <gistkv/text/gist_layout.hpp>

namespace gistkv::cli {

namespace {

struct tokenize_options {
  std::string file;
  model_options model;
  std::string segmenter = "paper";
  index_t gists = 0;
  bool no_bos = false;
  bool as_text = false;
  bool json = false;
};

void tokenize(const tokenize_options& o) {
  require_model(o.model);
  if (o.gists < 0 || o.gists > 1024) {
    throw usage_error("--gists is " + std::to_string(o.gists) + ", want 0 to 1024");
  }
  const text::any_segmenter segmenter = parse_rule(o.segmenter);
  const std::string text = read_text(o.file);
  io::tokenizer tokens = load_tokenizer(o.model.model);
  const auto first_gist = static_cast<token_t>(tokens.vocab_size());
  if (o.gists > 0) tokens = tokens.with_gists(o.gists);
  const auto mode = o.as_text ? io::special_tokens::as_text : io::special_tokens::parse;
  const auto encode = [&](std::string_view piece, std::vector<token_t>& out) {
    tokens.encode(piece, out, mode);
  };
  text::gist_layout_builder builder(o.gists, first_gist);
  if (tokens.add_bos() && tokens.bos() && !o.no_bos) {
    builder.append_verbatim(std::vector<token_t>{*tokens.bos()});
  }
  text::any_segmenter state = segmenter;
  builder.append_text(state, text, encode);
  builder.finish_text(state, encode);
  const text::gist_layout rows = builder.take();
  if (o.json) {
    json pieces = json::array();
    for (const token_t t : rows.ids) pieces.push_back(std::string(tokens.piece(t)));
    return print_json(json{{"n_regular", rows.n_regular},
                           {"n_gist", rows.n_gist},
                           {"n_sentences", rows.n_sentences},
                           {"rule", o.gists > 0 ? json(o.segmenter) : json(nullptr)},
                           {"ids", rows.ids},
                           {"pieces", pieces}});
  }
  std::string line;
  for (const token_t t : rows.ids) line += (line.empty() ? "" : " ") + std::to_string(t);
  print(line + "\n");
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto o = std::make_shared<tokenize_options>();
  CLI::App& verb = add_verb(app, "tokenize", "Print the token ids of a text, gists included");
  add_required(verb, "FILE", o->file, "Text; - is stdin");
  add_option(verb, "--model", o->model.model,
             "Whose tokenizer: a GGUF file, or a directory with tokenizer.json", "FILE|DIR");
  add_option(verb, "--gists", o->gists, "Gists behind each sentence; 0: none (default)", "N");
  add_option(
      verb, "--segmenter", o->segmenter,
      "paper, unicode, english or uniform:N; ,min_bytes:B joins shorter ones, ,max_length:M cuts "
      "longer ones (default paper)",
      "RULE");
  add_flag(verb, "--no-bos", o->no_bos, "Never put bos in front, whatever the model says");
  add_flag(verb, "--markers-as-text", o->as_text,
           "The text of a control token, <|im_end|> say, is text and not that token");
  add_json(verb, o->json);
  add_example(verb,
              "gistkv tokenize /usr/share/common-licenses/GPL-2 --gists 4 --model "
              "~/.cache/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf");
  on_run(verb, [o] { tokenize(*o); });
}

}  // namespace gistkv::cli
