// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Training of GMSA: derivatives are those of differences, a batch is the sum of its samples, and
// what was trained computes elsewhere what it computed here.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/gmsa/trainable.hpp>
#include <gistkv/gmsa/trained_parts.hpp>
#include <gistkv/model/session.hpp>

#include "support/random_model.hpp"

namespace {

using namespace gistkv;

using backend = backends::eigen<double>;
using trainer = gmsa::trainable_gmsa<backend, double>;

backend& be() {
  static backend b(1);
  return b;
}

model::host_model base_model() {
  test::random_model_options o;
  o.n_layers = 3;
  o.biases = true;
  o.head_norms = true;
  return test::random_model(o);
}

gmsa::training_options options_of(gmsa::stage stage) {
  return {stage,
          {.rank = 2, .alpha = 3.0, .dropout = 0.0},
          {.rank = 3, .alpha = 5.0, .dropout = 0.0, .targets = {"query", "value", "up"}}};
}

struct training_case {
  gmsa::stage stage;
  gmsa::merging merging = gmsa::merging::mean;
  index_t alignment_layers = 1;
  index_t slots = 0;
};
constexpr training_case cases[] = {{gmsa::stage::restoring},
                                   {gmsa::stage::answering},
                                   {gmsa::stage::decoder},
                                   {gmsa::stage::decoder_lora},
                                   {gmsa::stage::restoring, gmsa::merging::last},
                                   {gmsa::stage::restoring, gmsa::merging::mean, 0},
                                   {gmsa::stage::restoring, gmsa::merging::mean, 1, 4},
                                   {gmsa::stage::answering, gmsa::merging::mean, 1, 4}};

gmsa::host_parts start_of(const model::host_model& base, const training_case& c) {
  auto parts = gmsa::untrained_parts(base, {2, c.alignment_layers});
  parts.merging = c.merging;
  if (c.slots > 0) gmsa::add_slots(parts, c.slots, 5);
  return parts;
}

/// Ragged: a context of whole groups, one with a rest, none at all.
struct samples {
  std::vector<gmsa::sample> all;
  std::vector<index_t> rates = {3, 4, 2};

  explicit samples(index_t n_vocab) {
    random_generator random(3);
    const auto tokens = [&](index_t n) {
      std::vector<token_t> ids;
      for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<token_t>(random.below(n_vocab)));
      return ids;
    };
    all = {{tokens(6), tokens(2), tokens(3)},
           {tokens(9), tokens(1), tokens(4)},
           {{}, tokens(3), tokens(2)}};
  }
  double scale() const { return 1.0 / 9.0; }
};

/// LoRA's B is zero at first, where A has no derivative: one step makes it something.
void move_off_zero(trainer& m, const samples& s) {
  m.parameters().clear_gradients();
  m.forward_backward(s.all, s.rates, s.scale(), 0);
  m.parameters().update(
      {0.9, 0.999, 1e-8, 0.0}, [](auto) { return 0.05; }, 1.0, 1);
  m.parameters().clear_gradients();
}

TEST_CASE("gradients are differences of the loss, in every stage and without parts of it") {
  const auto base = base_model();
  const samples s(base.config.n_vocab);
  for (const training_case& c : cases) {
    trainer m(be(), start_of(base, c), options_of(c.stage));
    move_off_zero(m, s);
    m.forward_backward(s.all, s.rates, s.scale(), 0);
    random_generator random(4);
    index_t n_trained = 0;
    double worst = 0;
    for (std::size_t i = 0; i < m.parameters().size(); ++i) {
      auto& p = m.parameters()[i];
      CAPTURE(p.name);
      if (!p.trained) continue;
      ++n_trained;
      const auto gradient = p.gradient.to_host();
      double largest = 0;
      for (const double g : gradient) largest = std::max(largest, std::abs(g));
      CHECK(largest > 0);
      for (int trial = 0; trial < 4; ++trial) {
        const index_t at = random.below(p.rows * p.cols);
        const double value = p.value.to_host()[static_cast<std::size_t>(at)];
        const auto loss_at = [&](double x) {
          be().upload(p.value.data() + at, &x, sizeof x);
          return m.loss(s.all, s.rates, s.scale());
        };
        const double h = 1e-5;
        const double slope = (loss_at(value + h) - loss_at(value - h)) / (2 * h);
        be().upload(p.value.data() + at, &value, sizeof value);
        const double error = std::abs(slope - gradient[static_cast<std::size_t>(at)]) / largest;
        CHECK(error <= 1e-6);
        worst = std::max(worst, error);
      }
    }
    CHECK(n_trained >= base.config.n_layers);
    if (c.stage == gmsa::stage::answering) CHECK(n_trained == base.config.n_layers);
    MESSAGE("stage " << static_cast<int>(c.stage) << ": " << n_trained
                     << " parameters, largest error " << worst << " of the largest entry");
  }
}

TEST_CASE("a batch is the sum of its samples") {
  const auto base = base_model();
  const samples s(base.config.n_vocab);
  for (const training_case& c : cases) {
    trainer m(be(), start_of(base, c), options_of(c.stage));
    move_off_zero(m, s);
    const double together = m.forward_backward(s.all, s.rates, s.scale(), 0);
    std::vector<std::vector<double>> gradients;
    for (std::size_t i = 0; i < m.parameters().size(); ++i) {
      gradients.push_back(m.parameters()[i].gradient.to_host());
    }
    m.parameters().clear_gradients();
    double apart = 0;
    for (std::size_t i = 0; i < s.all.size(); ++i) {
      apart += m.forward_backward({&s.all[i], 1}, {&s.rates[i], 1}, s.scale(), 0);
    }
    CHECK(together == doctest::Approx(apart).epsilon(1e-12));
    for (std::size_t i = 0; i < m.parameters().size(); ++i) {
      if (!m.parameters()[i].trained) continue;
      const auto sum = m.parameters()[i].gradient.to_host();
      for (std::size_t j = 0; j < sum.size(); ++j) {
        CHECK(sum[j] == doctest::Approx(gradients[i][j]).epsilon(1e-9).scale(1e-3));
      }
    }
  }
}

/// The loss of a sample by compressor and decoder as they are used.
double used_loss(const gmsa::host_parts& parts, const gmsa::sample& s, index_t rate) {
  const gmsa::compressor<backend, double> c(be(), gmsa::compressor_of(parts));
  const model::transformer<backend, double> decoder(be(), gmsa::decoder_of(parts));
  model::session<backend, double> session(decoder, cache::cache_options{});
  const auto soft = c.compress(s.context, rate);
  if (soft.size() > 0) session.read_soft(soft);
  session.read(s.prompt);
  double sum = 0;
  for (const token_t label : s.labels) {
    double total = 0;
    for (const float l : session.logits()) total += std::exp(static_cast<double>(l));
    sum += std::log(total) - static_cast<double>(session.logits()[static_cast<std::size_t>(label)]);
    session.read({&label, 1});
  }
  return sum;
}

TEST_CASE("steps lower the loss, and what was trained is what is used") {
  const auto base = base_model();
  const samples s(base.config.n_vocab);
  for (const training_case& c : cases) {
    const auto start = start_of(base, c);
    trainer m(be(), start, options_of(c.stage));
    const double before = m.loss(s.all, s.rates, 1.0);
    for (index_t step = 1; step <= 8; ++step) {
      m.parameters().clear_gradients();
      m.forward_backward(s.all, s.rates, s.scale(), 0);
      m.parameters().update(
          {0.9, 0.999, 1e-8, 0.01}, [](auto) { return 0.01; }, 1.0, step);
    }
    const double after = m.loss(s.all, s.rates, 1.0);
    CHECK(after < before - 0.1);
    const auto parts = gmsa::trained_parts(m, start);
    double used = 0;
    for (std::size_t i = 0; i < s.all.size(); ++i) used += used_loss(parts, s.all[i], s.rates[i]);
    CHECK(used == doctest::Approx(after).epsilon(1e-4));  // Weights were rounded to float.
    // And training goes on from there.
    trainer again(be(), parts, options_of(c.stage));
    CHECK(again.loss(s.all, s.rates, 1.0) == doctest::Approx(after).epsilon(1e-4));
    MESSAGE("stage " << static_cast<int>(c.stage) << ": loss " << before << " to " << after
                     << ", in use " << used);
  }
}

TEST_CASE("LoRA of the decoder drops while it is trained, and stays what it was elsewhere") {
  const auto base = base_model();
  const samples s(base.config.n_vocab);
  const auto start = start_of(base, {gmsa::stage::decoder_lora});
  auto options = options_of(gmsa::stage::decoder_lora);
  trainer m(be(), start, options);
  move_off_zero(m, s);
  const auto parts = gmsa::trained_parts(m, start);
  CHECK(parts.decoder_lora.size() == 3 * base.blocks.size());
  CHECK(parts.decoder_lora_alpha == 5.0);
  options.decoder_lora.dropout = 0.5;
  trainer drops(be(), parts, options);
  const double whole = drops.loss(s.all, s.rates, 1.0);
  CHECK(drops.forward_backward(s.all, s.rates, 1.0, 1) != doctest::Approx(whole).epsilon(1e-6));

  // It goes on as what it was.
  auto other_lora = options_of(gmsa::stage::decoder_lora);
  other_lora.decoder_lora.alpha = 6.0;
  CHECK_THROWS_WITH_AS(trainer(be(), parts, other_lora),
                       "gmsa training: LoRA of the decoder has alpha 5.000000, to be trained with "
                       "6.000000",
                       argument_error);
  other_lora = options_of(gmsa::stage::decoder_lora);
  other_lora.decoder_lora.targets = {"query", "value"};
  CHECK_THROWS_WITH_AS(
      trainer(be(), parts, other_lora),
      "gmsa training: LoRA of the decoder is of up too, which is not among the maps to train",
      argument_error);
  other_lora = options_of(gmsa::stage::decoder_lora);
  other_lora.decoder_lora.rank = 2;
  CHECK_THROWS_AS(trainer(be(), parts, other_lora), shape_error);

  // Constant in a stage that restores, part of the weights in those that train weights.
  for (const auto stage : {gmsa::stage::restoring, gmsa::stage::answering, gmsa::stage::decoder}) {
    trainer other(be(), parts, options_of(stage));
    CHECK(other.loss(s.all, s.rates, 1.0) == doctest::Approx(whole).epsilon(1e-5));
    const auto after = gmsa::trained_parts(other, parts);
    CHECK(after.decoder_lora.empty() == (stage != gmsa::stage::restoring));
    CHECK(trainer(be(), after, options_of(stage)).loss(s.all, s.rates, 1.0) ==
          doctest::Approx(whole).epsilon(1e-5));
  }
}

TEST_CASE("what cannot be trained is refused") {
  const auto base = base_model();
  auto parts = gmsa::untrained_parts(base, {2, 1});
  const samples s(base.config.n_vocab);
  trainer m(be(), parts, options_of(gmsa::stage::restoring));
  CHECK_THROWS_AS(m.loss(s.all, {}, 1.0), shape_error);
  const index_t zero = 0;
  CHECK_THROWS_AS(m.loss({&s.all[0], 1}, {&zero, 1}, 1.0), argument_error);
  // The head has no row for a token behind the vocabulary.
  const auto behind = static_cast<token_t>(base.config.n_vocab);
  for (const auto part : {&gmsa::sample::context, &gmsa::sample::prompt, &gmsa::sample::labels}) {
    gmsa::sample outside = s.all[0];
    (outside.*part).back() = behind;
    CHECK_THROWS_AS(m.loss({&outside, 1}, {&s.rates[0], 1}, 1.0), argument_error);
  }
  auto few = parts;
  gmsa::add_slots(few, 2, 1);
  trainer slots(be(), few, options_of(gmsa::stage::restoring));
  CHECK_THROWS_WITH_AS(slots.loss(s.all, s.rates, 1.0),
                       "gmsa: a context of 9 tokens at rate 4 wants 3 slots, the compressor has 2",
                       argument_error);
  auto deep = parts;
  ++deep.encoder.config.n_layers;
  CHECK_THROWS_AS(trainer(be(), deep, options_of(gmsa::stage::restoring)), shape_error);
  few.slots.cols = 4;
  CHECK_THROWS_AS(trainer(be(), few, options_of(gmsa::stage::restoring)), shape_error);
  auto nothing = options_of(gmsa::stage::restoring);
  nothing.lora.rank = 0;
  CHECK_THROWS_AS(trainer(be(), parts, nothing), argument_error);
  nothing = options_of(gmsa::stage::decoder_lora);
  nothing.decoder_lora.targets = {"q_proj"};
  CHECK_THROWS_AS(trainer(be(), parts, nothing), argument_error);
  parts.alignment = {};
  parts.linear = base.blocks[0].output;
  CHECK_THROWS_AS(trainer(be(), parts, options_of(gmsa::stage::restoring)), argument_error);
}

}  // namespace
