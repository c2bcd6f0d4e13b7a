// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/train/trainable_model.hpp>

#include "support/random_model.hpp"

/// What was trained is what the transformer then computes with.

namespace gistkv::test {

namespace {

using oracle = backends::eigen<double>;

oracle& be() {
  static oracle b(1);
  return b;
}

constexpr sentence_rule rule{2, 1, 1};

model::adapter trained(const model::host_model& source, bool gist_rows_only) {
  train::lora_options lora;
  lora.rank = 3;
  lora.alpha = 6;
  lora.gist_rows_only = gist_rows_only;
  train::trainable_model<oracle> m(be(), source, model::untrained_gist_rows(source, 2, 5),
                                   {train::trained_weights::lora, lora, rule});
  model::adapter a = m.save();
  random_generator random(17);
  for (model::low_rank& f : a.factors) {
    for (float& x : f.b) x = static_cast<float>(0.3 * random.normal());
  }
  return a;
}

train::sequence text_with_gists(index_t n_vocab) {
  random_generator random(3);
  train::sequence s;
  for (const index_t length : {3, 1, 4, 2}) {
    for (index_t i = 0; i < length; ++i) {
      s.tokens.push_back(static_cast<token_t>(random.below(n_vocab)));
    }
    for (index_t g = 0; g < 2; ++g) s.tokens.push_back(static_cast<token_t>(n_vocab + g));
  }
  return s;
}

/// Logits of all rows, read `chunk` tokens at a time.
std::vector<double> logits(const model::transformer<oracle>& m, std::span<const token_t> tokens,
                           index_t chunk) {
  cache::gist_cache<oracle, double> rows(be(), m.cache_shape(), {{2, 1, 1, 0}});
  std::vector<double> all;
  for (std::size_t begin = 0; begin < tokens.size(); begin += static_cast<std::size_t>(chunk)) {
    const auto piece =
        tokens.subspan(begin, std::min(static_cast<std::size_t>(chunk), tokens.size() - begin));
    const model::sequence_step<oracle, double> step{&rows, piece, {}};
    const auto n = static_cast<index_t>(piece.size());
    workspace<oracle> scratch(be(), m.workspace_size({&step, 1}));
    buffer<double, oracle> hidden(be(), n * m.config().d_model);
    m.forward({&step, 1}, hidden.view({n, m.config().d_model}), scratch);
    buffer<double, oracle> out(be(), n * m.n_vocab());
    m.logits(out.view({n, m.n_vocab()}), hidden.view({n, m.config().d_model}));
    const auto values = out.to_host();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

double loss(const std::vector<double>& l, const std::vector<token_t>& tokens, index_t n_vocab) {
  double sum = 0;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const double* row = l.data() + static_cast<index_t>(i) * n_vocab;
    double z = 0;
    for (index_t j = 0; j < n_vocab; ++j) z += std::exp(row[j]);
    sum += std::log(z) - row[tokens[i + 1]];
  }
  return sum;
}

double trained_loss(const model::host_model& source, const model::adapter& a,
                    const train::sequence& s) {
  train::lora_options lora;
  lora.rank = 3;
  lora.alpha = a.alpha;
  lora.gist_rows_only = a.gist_rows_only;
  train::trainable_model<oracle> m(be(), source, a.gists,
                                   {train::trained_weights::lora, lora, rule});
  m.load(a.factors);
  const train::batch<oracle> b(be(), {&s, 1}, rule, source.config.n_vocab);
  return m.loss(b, 1.0);
}

}  // namespace

TEST_CASE("the transformer computes with LoRA on gist rows as it was trained") {
  random_model_options shape;
  shape.biases = true;
  shape.head_norms = true;
  shape.tied_head = false;
  const model::host_model source = random_model(shape);
  const model::adapter a = trained(source, true);
  const train::sequence s = text_with_gists(source.config.n_vocab);
  model::transformer<oracle> m(be(), source, a.gists);
  const auto without = logits(m, s.tokens, 100);
  m.adapt(a);
  const auto with = logits(m, s.tokens, 100);
  CHECK(with != without);
  const double found = loss(with, s.tokens, m.n_vocab());
  CHECK(std::abs(found - trained_loss(source, a, s)) <= 1e-9 * found);
  const auto pieces = logits(m, s.tokens, 3);  // A batch of n equals n pieces.
  for (std::size_t i = 0; i < with.size(); ++i) CHECK(std::abs(pieces[i] - with[i]) <= 1e-9);

  // Text without a gist is the base model's, to the bit.
  std::vector<token_t> plain;
  for (token_t t = 0; t < 12; ++t) plain.push_back(t);
  const model::transformer<oracle> base(be(), source, a.gists);
  CHECK(logits(m, plain, 100) == logits(base, plain, 100));
}

TEST_CASE("LoRA on all rows becomes part of the weights") {
  const model::host_model source = random_model({});
  const model::adapter a = trained(source, false);
  const train::sequence s = text_with_gists(source.config.n_vocab);
  const model::host_model sum = model::merged(source, a);
  const model::transformer<oracle> m(be(), sum, a.gists);
  const double found = loss(logits(m, s.tokens, 100), s.tokens, m.n_vocab());
  // The sums are rounded to float.
  CHECK(std::abs(found - trained_loss(source, a, s)) <= 1e-5 * found);
  CHECK_THROWS_AS(model::merged(source, trained(source, true)), argument_error);
}

TEST_CASE("LoRA on all rows may stand beside the weights") {
  const model::host_model source = random_model({});
  const model::adapter a = trained(source, false);
  const train::sequence s = text_with_gists(source.config.n_vocab);
  model::transformer<oracle> m(be(), source, a.gists);
  m.adapt(a);
  const auto found = logits(m, s.tokens, 100);
  const double wanted = trained_loss(source, a, s);
  CHECK(std::abs(loss(found, s.tokens, m.n_vocab()) - wanted) <= 1e-9 * wanted);
  const auto pieces = logits(m, s.tokens, 3);
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::abs(pieces[i] - found[i]) <= 1e-9);
}

TEST_CASE("LoRA of one kind of rows is not added to that of the other") {
  const model::host_model source = random_model({});
  for (const bool first : {false, true}) {
    const model::adapter a = trained(source, first);
    model::transformer<oracle> m(be(), source, a.gists);
    m.adapt(a);
    CHECK_THROWS_AS(m.adapt(trained(source, !first)), argument_error);
    CHECK_NOTHROW(m.adapt(a));
  }
}

TEST_CASE("an adapter file holds what was trained") {
  const model::host_model source = random_model({});
  const auto path =
      std::filesystem::temp_directory_path() / ("gistkv-adapter-" + std::to_string(::getpid()));
  for (const bool gists_only : {false, true}) {
    const model::adapter a = trained(source, gists_only);
    io::write_adapter(path, a, source.config.d_model, {{"recent", "1"}}, false);
    const auto file = io::safetensors_file::open(path);
    const model::adapter b = io::read_adapter(file, source.config);
    CHECK(io::adapter_gists(file) == 2);
    const io::adapter_layout layout = io::read_adapter_layout(file);
    CHECK(layout.rule.n_gist == 2);
    CHECK(layout.rule.recent == 1);
    CHECK(layout.rule.n_sink == 1);
    CHECK(layout.segmenter == "paper");
    CHECK(b.gists.input == a.gists.input);
    CHECK(b.alpha == a.alpha);
    CHECK(b.gist_rows_only == gists_only);
    REQUIRE(b.factors.size() == a.factors.size());
    for (const model::low_rank& f : a.factors) {
      bool found = false;
      for (const model::low_rank& g : b.factors) {
        if (g.layer != f.layer || g.target != f.target) continue;
        found = g.a == f.a && g.b == f.b && g.rank == f.rank;
      }
      CHECK(found);
    }
    io::write_adapter(path, a, source.config.d_model,
                      {{"recent", "1 "}, {"segmenter", "paper,before"}}, false);
    CHECK_THROWS_AS(io::read_adapter_layout(io::safetensors_file::open(path)), format_error);
    io::write_adapter(path, a, source.config.d_model,
                      {{"sink", "0"}, {"segmenter", "paper,before"}}, false);
    CHECK(io::read_adapter_layout(io::safetensors_file::open(path)).rule.n_sink == 0);
    CHECK(io::read_adapter_layout(io::safetensors_file::open(path)).segmenter == "paper,before");
    // In bf16 each number is the nearest one.
    io::write_adapter(path, a, source.config.d_model, {}, true);
    const model::adapter narrow = io::read_adapter(io::safetensors_file::open(path), source.config);
    CHECK(narrow.gists.input.front() == static_cast<float>(bf16(a.gists.input.front())));
    // Another model: the error says which tensor.
    model::model_config wider = source.config;
    wider.d_ff += 1;
    try {
      io::read_adapter(io::safetensors_file::open(path), wider);
      FAIL("was read");
    } catch (const format_error& e) {
      CHECK(std::string(e.what()).find("blocks.0.gate.lora_b") != std::string::npos);
    }
    wider = source.config;
    wider.n_layers = 1;
    try {
      io::read_adapter(io::safetensors_file::open(path), wider);
      FAIL("was read");
    } catch (const format_error& e) {
      CHECK(std::string(e.what()).find("is unknown") != std::string::npos);
    }
  }
  std::filesystem::remove(path);
}

}  // namespace gistkv::test
