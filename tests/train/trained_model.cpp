// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/train/trainable_model.hpp>
#include <gistkv/train/trained_model.hpp>

#include "support/random_model.hpp"

/// A model taken out of training computes what it computed in it.

namespace gistkv::test {

namespace {

using oracle = backends::eigen<double>;

std::vector<train::sequence> some_text(const random_model_options& o) {
  random_generator random(11);
  train::sequence s;
  for (int sentence = 0; sentence < 4; ++sentence) {
    for (int i = 0; i < 5; ++i) s.tokens.push_back(static_cast<token_t>(random.below(o.n_vocab)));
    for (int g = 0; g < 2; ++g) s.tokens.push_back(static_cast<token_t>(o.n_vocab + g));
  }
  return {s};
}

void check(const random_model_options& o) {
  oracle be(1);
  const model::host_model source = random_model(o);
  const sentence_rule rule{2, 0, 1};
  const auto text = some_text(o);
  train::model_options options;
  options.trained = train::trained_weights::all;
  options.rule = rule;
  train::trainable_model<oracle> m(be, source, model::untrained_gist_rows(source, 2, 5), options);
  const train::batch<oracle> b(be, text, rule, o.n_vocab);
  const double before = m.loss(b, 0.1);

  const auto loss_of = [&](const model::host_model& weights) {
    train::model_options frozen;
    frozen.rule = rule;
    train::trainable_model<oracle> other(be, weights, m.save().gists, frozen);
    return other.loss(b, 0.1);
  };
  // Before the first step the weights are floats, so nothing is rounded.
  CHECK(std::abs(loss_of(train::trained_model(m.parameters(), source)) - before) < 1e-12);

  for (index_t step = 1; step <= 2; ++step) {
    m.forward_backward(b, 0.1, 0);
    m.parameters().update(
        {}, [](train::parameter_kind) { return 0.01; }, 1.0, step);
    m.parameters().clear_gradients();
  }
  const double after = m.loss(b, 0.1);
  CHECK(after < before - 0.01);
  const model::host_model trained = train::trained_model(m.parameters(), source);
  CHECK(std::abs(loss_of(trained) - after) < 1e-5 * after);
  CHECK(std::abs(loss_of(source) - after) > 1e-3);
  CHECK(trained.blocks.size() == source.blocks.size());
  CHECK(trained.blocks[0].query.bias.empty() == source.blocks[0].query.bias.empty());
}

TEST_CASE("trained model: as it was in training, for every kind of weight") {
  random_model_options plain;
  check(plain);
  random_model_options rich;
  rich.biases = true;
  rich.head_norms = true;
  rich.tied_head = false;
  rich.seed = 3;
  check(rich);
}

TEST_CASE("trained model: frozen weights are the source's own, and another model is refused") {
  oracle be(1);
  random_model_options o;
  const model::host_model source = random_model(o);
  train::model_options options;
  options.rule = {2, 0, 1};
  options.trained = train::trained_weights::lora;
  options.lora.rank = 2;
  const auto gists = model::untrained_gist_rows(source, 2, 5);
  train::trainable_model<oracle> lora(be, source, gists, options);
  const model::host_model same = train::trained_model(lora.parameters(), source);
  CHECK(same.token_embedding.data.data() == source.token_embedding.data.data());
  CHECK(same.blocks[1].gate.weight.data.data() == source.blocks[1].gate.weight.data.data());
  CHECK(same.final_norm.data.data() == source.final_norm.data.data());

  options.trained = train::trained_weights::all;
  train::trainable_model<oracle> all(be, source, gists, options);
  o.d_ff += 2;
  CHECK_THROWS_AS(train::trained_model(all.parameters(), random_model(o)), shape_error);
}

}  // namespace

}  // namespace gistkv::test
