// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/io/adapter_file.hpp>
#include <gistkv/model/transformer.hpp>
#include <gistkv/train/trainable_model.hpp>

#include "support/golden_arrays.hpp"
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

train::model_options options_of(const model::lora& l, bool on_gist_rows) {
  train::lora_options lora;
  lora.rank = 3;
  lora.alpha = l.alpha;
  lora.gist_rows_only = on_gist_rows;
  return {train::trained_weights::lora, lora, rule};
}

model::adapter trained(const model::host_model& source, bool on_gist_rows) {
  train::trainable_model<oracle> m(be(), source, model::untrained_gist_rows(source, 2, 5),
                                   options_of({6.0, {}}, on_gist_rows));
  model::adapter a = m.save();
  random_generator random(on_gist_rows ? 18 : 17);
  for (model::low_rank& f : (on_gist_rows ? a.on_gist_rows : a.on_all_rows).factors) {
    for (float& x : f.b) x = static_cast<float>(0.3 * random.normal());
  }
  return a;
}

/// LoRA on all rows, and another one on gist rows.
model::adapter trained_both(const model::host_model& source) {
  model::adapter a = trained(source, false);
  a.on_gist_rows = trained(source, true).on_gist_rows;
  a.on_gist_rows.alpha = 12.0;
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
  // A training of gist rows has the LoRA on all rows in its weights.
  const bool on_gists = !a.on_gist_rows.empty();
  const model::lora& last = on_gists ? a.on_gist_rows : a.on_all_rows;
  train::trainable_model<oracle> m(be(), on_gists ? model::merged(source, a) : source, a.gists,
                                   options_of(last, on_gists));
  m.load(last.factors);
  const train::batch<oracle> b(be(), {&s, 1}, rule, source.config.n_vocab);
  return m.loss(b, 1.0);
}

void write_all(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
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

TEST_CASE("LoRA on gist rows comes on top of LoRA on all rows") {
  const model::host_model source = random_model({});
  const model::adapter a = trained_both(source);
  const train::sequence s = text_with_gists(source.config.n_vocab);
  model::transformer<oracle> m(be(), source, a.gists);
  m.adapt(a);
  const auto found = logits(m, s.tokens, 100);
  const double wanted = trained_loss(source, a, s);
  // The sums of base and first LoRA are rounded to float.
  CHECK(std::abs(loss(found, s.tokens, m.n_vocab()) - wanted) <= 1e-5 * wanted);
  const auto pieces = logits(m, s.tokens, 3);
  for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::abs(pieces[i] - found[i]) <= 1e-9);

  // The first LoRA in the weights, the second beside them.
  model::transformer<oracle> half(be(), model::merged(source, a), a.gists);
  half.adapt(a.on_gist_rows, model::lora_on::gist_rows);
  CHECK(std::abs(loss(logits(half, s.tokens, 100), s.tokens, m.n_vocab()) - wanted) <=
        1e-9 * wanted);

  // So are both where they learn together; what is learned is what was loaded.
  train::model_options together = options_of(a.on_gist_rows, true);
  together.lora_on_all_rows = options_of(a.on_all_rows, false).lora;
  CHECK_THROWS_AS(train::trainable_model<oracle>(be(), source, a.gists, together), argument_error);
  together.lora_on_all_rows->name = "second";
  train::trainable_model<oracle> learner(be(), source, a.gists, together);
  learner.load(a);
  const train::batch<oracle> b(be(), {&s, 1}, rule, source.config.n_vocab);
  CHECK(std::abs(learner.loss(b, 1.0) - loss(found, s.tokens, m.n_vocab())) <= 1e-9 * wanted);
  model::transformer<oracle> again(be(), source, a.gists);
  again.adapt(learner.save());
  CHECK(logits(again, s.tokens, 100) == found);
  together.lora.gist_rows_only = false;
  CHECK_THROWS_AS(train::trainable_model<oracle>(be(), source, a.gists, together), argument_error);

  // One without the other is another model, in whatever order they come.
  const auto only = [&](const model::lora& l, model::lora_on rows) {
    model::transformer<oracle> one(be(), source, a.gists);
    one.adapt(l, rows);
    return logits(one, s.tokens, 100);
  };
  CHECK(only(a.on_all_rows, model::lora_on::all_rows) != found);
  CHECK(only(a.on_gist_rows, model::lora_on::gist_rows) != found);
  model::transformer<oracle> reversed(be(), source, a.gists);
  reversed.adapt(a.on_gist_rows, model::lora_on::gist_rows);
  reversed.adapt(a.on_all_rows, model::lora_on::all_rows);
  CHECK(logits(reversed, s.tokens, 100) == found);

  // Text without a gist knows of the first alone, to the bit.
  const std::vector<token_t> plain = {3, 1, 4, 1, 5, 9, 2, 6};
  model::transformer<oracle> first(be(), source, a.gists);
  first.adapt(a.on_all_rows, model::lora_on::all_rows);
  CHECK(logits(m, plain, 100) == logits(first, plain, 100));
}

TEST_CASE("LoRA to go on from is not lost in part") {
  const model::host_model source = random_model({});
  const model::adapter a = trained_both(source);
  train::model_options options = options_of(a.on_gist_rows, true);
  options.lora_on_all_rows = options_of(a.on_all_rows, false).lora;
  options.lora_on_all_rows->name = "second";
  const auto load = [&](const train::model_options& o, const model::adapter& from) {
    train::trainable_model<oracle>(be(), source, a.gists, o).load(from);
  };
  load(options, a);
  for (const bool second : {false, true}) {
    const auto with = [&](auto change) {
      train::model_options o = options;
      change(second ? *o.lora_on_all_rows : o.lora);
      return o;
    };
    CHECK_THROWS_AS(load(with([](auto& l) { l.targets = {"query", "up"}; }), a), argument_error);
    CHECK_THROWS_AS(load(with([](auto& l) { l.alpha += 1.0; }), a), argument_error);
    CHECK_THROWS_AS(load(with([](auto& l) { l.rank = 2; }), a), shape_error);
    const auto but_for = [&](auto change) {
      model::adapter other = a;
      change((second ? other.on_all_rows : other.on_gist_rows).factors.back());
      return other;
    };
    CHECK_THROWS_AS(load(options, but_for([](auto& f) { f.layer = 2; })), argument_error);
    CHECK_THROWS_AS(load(options, but_for([](auto& f) { f.target = "head"; })), argument_error);
    CHECK_THROWS_AS(load(options, but_for([](auto& f) { f.a.pop_back(); })), shape_error);
    CHECK_THROWS_AS(load(options, but_for([](auto& f) { f.b.push_back(1.0F); })), shape_error);
  }
  // On all rows it may be in the weights; on gist rows it cannot.
  options.trained = train::trained_weights::none;
  load(options, {a.gists, a.on_all_rows, {}});
  CHECK_THROWS_AS(load(options, a), argument_error);
  // A transformer sees as much.
  model::transformer<oracle> m(be(), source, a.gists);
  model::lora short_of_one = a.on_gist_rows;
  short_of_one.factors.back().b.pop_back();
  CHECK_THROWS_AS(m.adapt(short_of_one, model::lora_on::gist_rows), shape_error);
}

TEST_CASE("LoRA that is refused changes nothing") {
  const model::host_model source = random_model({});
  const model::adapter a = trained_both(source);
  const train::sequence s = text_with_gists(source.config.n_vocab);
  const double infinite = std::numeric_limits<double>::infinity();
  // Each has something to refuse behind factors that fit.
  std::vector<model::adapter> faulty;
  for (const bool on_gist_rows : {false, true}) {
    const auto with = [&](auto change) {
      model::adapter other = a;
      change(on_gist_rows ? other.on_gist_rows : other.on_all_rows);
      faulty.push_back(other);
    };
    with([](model::lora& l) { l.factors.back().a.pop_back(); });
    with([](model::lora& l) { l.factors.back().layer = 2; });
    with([](model::lora& l) { l.factors.back().target = "head"; });
    with([](model::lora& l) { l.factors.push_back(l.factors.front()); });
  }
  model::transformer<oracle> m(be(), source, a.gists);
  train::model_options options = options_of(a.on_gist_rows, true);
  options.lora_on_all_rows = options_of(a.on_all_rows, false).lora;
  options.lora_on_all_rows->name = "second";
  train::trainable_model<oracle> learner(be(), source, a.gists, options);
  const train::batch<oracle> b(be(), {&s, 1}, rule, source.config.n_vocab);
  const auto refuse_all = [&] {
    const std::vector<double> before = logits(m, s.tokens, 100);
    const double loss_before = learner.loss(b, 1.0);
    for (const model::adapter& f : faulty) {
      CHECK_THROWS_AS(m.adapt(f), error);
      CHECK(logits(m, s.tokens, 100) == before);
      CHECK_THROWS_AS(learner.load(f), error);
      CHECK(learner.loss(b, 1.0) == loss_before);
    }
  };
  refuse_all();
  // Nor does it when something stands there that fits.
  m.adapt(a);
  learner.load(a);
  for (model::adapter& f : faulty) {
    for (model::lora* l : {&f.on_all_rows, &f.on_gist_rows}) {
      for (float& x : l->factors.front().b) x += 1.0F;
    }
  }
  refuse_all();

  // Two changes of one map are refused where they would be added up, too.
  model::host_model copy = source;
  std::vector<model::low_rank> twice = a.on_all_rows.factors;
  twice.push_back(twice.front());
  CHECK_THROWS_AS(model::merge_lora(copy, twice, 6.0), argument_error);
  // No file could say these.
  for (const double alpha : {0.0, -6.0, infinite, std::nan("")}) {
    model::adapter other = a;
    other.on_all_rows.alpha = alpha;
    CHECK_THROWS_AS(m.adapt(other), argument_error);
    CHECK_THROWS_AS(model::merged(source, other), argument_error);
  }
}

TEST_CASE("an adapter is not written with fewer numbers than its shapes ask for") {
  const auto path = std::filesystem::temp_directory_path() /
                    ("gistkv-short-adapter-" + std::to_string(::getpid()));
  const auto message = [&](const model::adapter& a, index_t d_model, bool narrow) {
    try {
      io::write_adapter(path, a, d_model, {}, narrow);
    } catch (const shape_error& e) {
      return std::string(e.what());
    }
    return std::string("written");
  };
  const model::host_model source = random_model({});
  const model::adapter whole = trained(source, false);
  for (const bool narrow : {false, true}) {
    model::adapter rows;
    rows.gists = {2, std::vector<float>(2 * 64), {}};
    CHECK(message(rows, 64, narrow) == "written");
    CHECK(message(rows, 128, narrow) == "tensor 'gist.input': 512 bytes, expected 2 rows of 512");
    CHECK(message(rows, 32, narrow) == "tensor 'gist.input': 512 bytes, expected 2 rows of 128");
    rows.gists.head = std::vector<float>(2 * 64 - 1);
    CHECK(message(rows, 64, narrow) == "tensor 'gist.head': 508 bytes, expected 2 rows of 256");
    model::adapter lora = whole;
    lora.on_all_rows.factors.back().b.pop_back();
    const std::string found = message(lora, source.config.d_model, narrow);
    CHECK(found.find("'blocks.1.down.lora_b'") != std::string::npos);
  }
  std::filesystem::remove(path);
}

TEST_CASE("an adapter file holds what was trained") {
  const model::host_model source = random_model({});
  const auto path =
      std::filesystem::temp_directory_path() / ("gistkv-adapter-" + std::to_string(::getpid()));
  const auto same = [](const model::lora& a, const model::lora& b) {
    CHECK(b.alpha == a.alpha);
    REQUIRE(b.factors.size() == a.factors.size());
    for (const model::low_rank& f : a.factors) {
      bool found = false;
      for (const model::low_rank& g : b.factors) {
        if (g.layer != f.layer || g.target != f.target) continue;
        found = g.a == f.a && g.b == f.b && g.rank == f.rank;
      }
      CHECK(found);
    }
  };
  for (const model::adapter& a :
       {trained(source, false), trained(source, true), trained_both(source)}) {
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
    same(a.on_all_rows, b.on_all_rows);
    same(a.on_gist_rows, b.on_gist_rows);
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
    // The kinds of LoRA that the metadata name are those that the tensors have.
    const std::string named =
        a.on_all_rows.empty() ? "\"gists\"" : (a.on_gist_rows.empty() ? "\"all\"" : "\"both\"");
    const std::string other = named == "\"both\"" ? "\"all\"" : "\"both\"";
    std::string bytes = read_file(path);
    const std::size_t at = bytes.find("\"lora_rows\":" + named);
    REQUIRE(at != std::string::npos);
    const auto length = static_cast<std::size_t>(12) + named.size();
    if (other.size() <= named.size()) {
      bytes.replace(at, length,
                    "\"lora_rows\":" + other + std::string(named.size() - other.size(), ' '));
      write_all(path, bytes);
      CHECK_THROWS_AS(io::read_adapter(io::safetensors_file::open(path), source.config),
                      format_error);
      io::write_adapter(path, a, source.config.d_model, {}, true);
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
