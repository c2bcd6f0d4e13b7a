// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// docs/tutorial.md and docs/gmsa.md with a real model: their code is this code or that of the
// examples, line by line, and this code runs.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/edit.hpp>
#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/gmsa/trained_parts.hpp>
#include <gistkv/io/gguf.hpp>
#include <gistkv/io/gmsa_adapter.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/io/tokenizer.hpp>
#include <gistkv/io/tokenizer_gguf.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/text/gist_layout.hpp>
#include <gistkv/text/paper.hpp>
#include <gistkv/train/schedule.hpp>

#include "support/data.hpp"
#include "support/golden_arrays.hpp"

namespace {

using namespace gistkv;

struct outcome {
  text::gist_layout rows;
  index_t rows_held = 0;
  index_t rows_held_after_answer = 0;
  model::generation answer;
};

using backend = backends::eigen<float>;

void join_and_undo(const model::transformer<backend>& model, model::session<backend>& context,
                   const model::session<backend>& other) {
  gistkv::cache::edit_history<backend, float> history(8);
  history.remember(context.cache());
  const auto f = gistkv::model::rope_frequencies(model.config().rope, model.config().head_dim);
  gistkv::cache::concatenate(context.cache(), other.cache(), std::span<const float>(f));
  history.undo(context.cache());
}

outcome compress_and_ask(const std::filesystem::path& path, std::string_view text,
                         std::string_view question) {
  constexpr index_t n_gist = 4;

  backend be;
  const model::host_model weights = io::load_model(path).weights;
  const io::tokenizer tokenizer(io::read_tokenizer(io::gguf_file::open(path)));
  const model::gist_rows gists = model::untrained_gist_rows(weights, n_gist, 0);
  const model::transformer<backend> transformer(be, weights, gists);

  auto tokenize = [&](std::string_view piece, std::vector<token_t>& ids) {
    tokenizer.encode(piece, ids, io::special_tokens::as_text);
  };
  const text::gist_layout rows =
      text::lay_out(text, text::paper{}, n_gist, transformer.first_gist(), tokenize);
  model::session<backend> context(transformer, {.rule = {.n_gist = n_gist, .n_sink = 1}});
  context.read(rows.ids);

  std::vector<token_t> question_ids;
  tokenize(question, question_ids);
  model::session<backend> turn = context.fork();
  turn.read(question_ids);

  text::paper open_sentence;  // Has seen the question, whose sentence the answer may close.
  std::vector<text::boundary> ignored;
  open_sentence.push(question, ignored);
  model::generator writer(turn, tokenizer, open_sentence, {.max_tokens = 40},
                          static_cast<index_t>(question.size()),
                          static_cast<index_t>(question_ids.size()));
  model::sampler greedy;
  const model::generation answer = writer.run(greedy);
  const index_t held = context.cache().rows_held();
  join_and_undo(transformer, context, context.fork());
  CHECK(context.cache().rows_held() == held);
  return {rows, context.cache().rows_held(), turn.cache().rows_held(), answer};
}

/// The logits behind a prompt that follows the soft tokens of a text.
std::vector<float> ask_soft_tokens(const model::host_model& base,
                                   const std::filesystem::path& adapter,
                                   std::span<const token_t> tokens,
                                   std::span<const token_t> prompt) {
  backend be;
  const gmsa::host_parts parts = io::read_gmsa_adapter(adapter, base).parts;
  const gmsa::compressor<backend> compressor(be, gmsa::compressor_of(parts));
  const model::transformer<backend> decoder(be, gmsa::decoder_of(parts));  // Its LoRA merged in.
  const model::soft_prompt soft = compressor.compress(tokens, 4);          // One soft token for 4.
  model::session<backend> context(decoder, cache::cache_options{});
  context.read_soft(soft);
  model::session<backend> question = context.fork();  // Many questions on one context.
  question.read(prompt);
  const auto logits = question.logits();
  return {logits.begin(), logits.end()};
}

/// The loss of a sample before and behind some steps of training.
std::pair<double, double> restore(const model::host_model& base, std::span<const token_t> tokens,
                                  std::span<const token_t> prompt, token_t eos, index_t n_steps) {
  backend be;
  const index_t rate = 4;
  const gmsa::host_parts start = gmsa::untrained_parts(base);
  gmsa::trainable_gmsa<backend> m(be, start, {.stage = gmsa::stage::restoring});
  const gmsa::sample s = gmsa::restoring_sample(tokens, prompt, eos, 512);
  for (index_t step = 1; step <= n_steps; ++step) {
    m.parameters().clear_gradients();  // They add up otherwise.
    m.forward_backward({&s, 1}, {&rate, 1}, 1.0 / double(s.labels.size()), std::uint64_t(step));
    m.parameters().update(
        {0.9, 0.999, 1e-8, 0.01}, [](auto) { return 1e-4; },
        train::clip_factor(m.parameters().gradient_norm(), 2.0), step);
  }
  const gmsa::host_parts learned = gmsa::trained_parts(m, start);  // To write, or to compress with.
  const auto loss = [&](const gmsa::host_parts& parts) {
    gmsa::trainable_gmsa<backend> with(be, parts, {.stage = gmsa::stage::restoring});
    return with.loss({&s, 1}, {&rate, 1}, 1.0 / double(s.labels.size()));
  };
  return {loss(start), loss(learned)};
}

/// Lines without their indentation.
std::string trimmed_lines(std::string_view text) {
  std::string lines = "\n";
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) end = text.size();
    std::string_view line = text.substr(begin, end - begin);
    line.remove_prefix(std::min(line.size(), line.find_first_not_of(' ')));
    lines.append(line).append("\n");
    begin = end + 1;
  }
  return lines;
}

TEST_SUITE_BEGIN("golden");

TEST_CASE("the code of tutorial and gmsa is code that is compiled here") {
  const auto root = test::source_dir();
  if (!test::require_file(root / "docs" / "tutorial.md")) return;
  std::string sources;
  for (const auto& entry : std::filesystem::directory_iterator(root / "examples")) {
    const auto extension = entry.path().extension();
    if (extension != ".cpp" && extension != ".hpp") continue;
    sources += trimmed_lines(test::read_file(entry.path()));
  }
  sources += trimmed_lines(test::read_file(root / "tests" / "golden" / "tutorial.cpp"));
  const std::string text =
      test::read_file(root / "docs" / "tutorial.md") + test::read_file(root / "docs" / "gmsa.md");
  const std::string fence = "```cpp\n";
  int n_blocks = 0;
  for (std::size_t at = text.find(fence); at != std::string::npos; at = text.find(fence, at)) {
    at += fence.size();
    const std::size_t end = text.find("```", at);
    REQUIRE(end != std::string::npos);
    const std::string block = trimmed_lines(std::string_view(text).substr(at, end - at));
    CAPTURE(block);
    CHECK(sources.find(block) != std::string::npos);
    at = end + 3;
    ++n_blocks;
  }
  CHECK(n_blocks >= 7);
}

TEST_CASE("the tutorial's way from a text to an answer") {
  const auto path = test::model_path();
  if (!test::require_file(path)) return;
  const std::string text =
      "The ferry leaves at nine in the morning. Tickets are sold on the quay by a man in a red "
      "cap. Bicycles travel free. ";
  const outcome o = compress_and_ask(path, text, "When does the ferry leave?");
  CHECK(o.rows.n_sentences == 3);
  CHECK(o.rows_held == 1 + 4 * 3);
  CHECK(o.answer.n_regular > 0);
  CHECK(o.answer.ids.size() >= 40);
  CHECK(o.answer.rows_after.back() == o.rows_held_after_answer);
}

TEST_CASE("soft tokens and a step of their training, as docs/gmsa.md has them") {
  const auto path = test::model_path();
  if (!test::require_file(path)) return;
  const model::host_model base = io::load_model(path).weights;
  const io::tokenizer tokenizer(io::read_tokenizer(io::gguf_file::open(path)));
  const auto ids_of = [&](std::string_view text) {
    std::vector<token_t> ids;
    tokenizer.encode(text, ids, io::special_tokens::as_text);
    return ids;
  };
  const auto tokens = ids_of("The ferry leaves at nine in the morning. Bicycles travel free.");
  const auto prompt = ids_of("Restate the aforementioned Text.");
  const auto adapter =
      test::source_dir() / "examples/adapters/smollm2-135m-instruct-gmsa/adapter.safetensors";
  const std::vector<float> logits = ask_soft_tokens(base, adapter, tokens, prompt);
  CHECK(static_cast<index_t>(logits.size()) == base.config.n_vocab);
  CHECK(std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
  // The decoder is not the model without what was trained with the soft tokens.
  backend be;
  const gmsa::host_parts parts = io::read_gmsa_adapter(adapter, base).parts;
  REQUIRE_FALSE(parts.decoder_lora.empty());
  const gmsa::compressor<backend> compressor(be, gmsa::compressor_of(parts));
  const model::transformer<backend> untrained(be, parts.decoder);
  model::session<backend> without(untrained, cache::cache_options{});
  without.read_soft(compressor.compress(tokens, 4));
  without.read(prompt);
  CHECK_FALSE(std::equal(logits.begin(), logits.end(), without.logits().begin()));
  // What comes behind depends on the text.
  CHECK(logits != ask_soft_tokens(base, adapter, ids_of("It rained all day."), prompt));
  const auto [before, after] = restore(base, tokens, prompt, 2, 3);
  CHECK(after < before);
}

TEST_SUITE_END();

}  // namespace
