// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>
#include <optional>
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

struct segment_options {
  std::string file;
  std::string model;
  std::string segmenter = "paper";
  bool json = false;
};

/// Offsets of all sentence ends. Rules that count tokens need the tokenizer.
std::vector<index_t> sentence_ends(const segment_options& o, const std::string& text) {
  const text::any_segmenter segmenter = parse_rule(o.segmenter);
  std::vector<index_t> ends;
  if (segmenter.max_tokens() == 0) {
    for (const text::boundary& b : text::boundaries(segmenter, text)) ends.push_back(b.offset);
    return ends;
  }
  if (o.model.empty()) {
    throw usage_error(
        "--segmenter " + o.segmenter +
        " counts tokens: --model is missing, want a GGUF file or a directory with tokenizer.json");
  }
  const io::tokenizer tokens = load_tokenizer(o.model);
  const codec encoder{&tokens};
  const text::gist_layout rows = text::lay_out(
      text, segmenter, 1, static_cast<token_t>(tokens.vocab_size()),
      [&](std::string_view piece, std::vector<token_t>& out) { encoder.encode(piece, out); },
      [&](token_t t) { return static_cast<index_t>(tokens.piece(t).size()); });
  for (std::size_t i = 0; i < rows.ids.size(); ++i) {
    if (rows.is_gist[i] != 0) ends.push_back(rows.text_begin[i]);
  }
  return ends;
}

/// A sentence on one line: line breaks become spaces, and those at its end go.
std::string as_line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return text + "\n";
}

void segment(const segment_options& o) {
  const std::string text = read_text(o.file);
  std::vector<index_t> ends = sentence_ends(o, text);
  const auto size = static_cast<index_t>(text.size());
  const bool open = (ends.empty() ? 0 : ends.back()) < size;
  if (open) ends.push_back(size);
  json sentences = json::array();
  std::string lines;
  index_t begin = 0;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    const bool closed = !open || i + 1 < ends.size();
    sentences.push_back({{"begin", begin}, {"end", ends[i]}, {"closed", closed}});
    lines += as_line(
        text.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(ends[i] - begin)));
    begin = ends[i];
  }
  if (!o.json) return print(lines);
  print_json(json{{"rule", o.segmenter},
                  {"n_bytes", size},
                  {"n_sentences", sentences.size() - (open ? 1 : 0)},
                  {"sentences", sentences}});
}

}  // namespace

text::any_segmenter parse_rule(const std::string& rule) {
  try {
    return text::parse_segmenter_rule(rule);
  } catch (const argument_error& failure) {
    throw usage_error(std::string("--segmenter: ") + failure.what());
  }
}

void add_segment(CLI::App& app) {
  auto o = std::make_shared<segment_options>();
  CLI::App& verb = add_verb(app, "segment", "Split a text into sentences, one a line");
  add_required(verb, "FILE", o->file, "Text; - is stdin");
  add_option(
      verb, "--segmenter", o->segmenter,
      "paper, unicode, english or uniform:N; ,min_bytes:B joins shorter ones, ,max_length:M cuts "
      "longer ones (default paper)",
      "RULE");
  add_option(verb, "--model", o->model, "Whose tokenizer counts for uniform and max_length",
             "FILE|DIR");
  add_json(verb, o->json);
  add_example(verb, "gistkv segment /usr/share/common-licenses/GPL-2 --segmenter english");
  on_run(verb, [o] { segment(*o); });
}

}  // namespace gistkv::cli
