// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/train/trainable_model.hpp>

#include "golden/support.hpp"

/// Loss, gradients and 20 steps of AdamW (golden part G).

namespace gistkv::test {

inline constexpr index_t golden_n_gist = 4;

inline bool training_goldens_are_there() {
  return require_file(golden_dir() / "sag" / "grad.json") &&
         require_file(golden_dir() / "sag" / "train.json") && require_file(model_path());
}

/// The first `length` tokens of each sequence; gists are no targets.
inline std::vector<train::sequence> golden_batch(const golden_arrays& g, index_t length) {
  const auto ids = g.ints("ids");
  const index_t stride = g.shape("ids")[1];
  std::vector<train::sequence> all;
  for (index_t s = 0; s < g.shape("ids")[0]; ++s) {
    train::sequence& one = all.emplace_back();
    for (index_t i = 0; i < length; ++i) {
      const token_t t = ids[static_cast<std::size_t>(s * stride + i)];
      one.tokens.push_back(t);
      one.weights.push_back(i > 0 && t < smollm2().config.n_vocab ? 1.0F : 0.0F);
    }
  }
  return all;
}

template <class B>
train::trainable_model<B> golden_model(const train::model_options& options) {
  return {backend<B>(), smollm2(), golden_gists(golden_n_gist, smollm2().config.d_model), options};
}

/// Largest difference over the norm of `want`.
template <class T>
double relative_error(const T* found, const float* want, std::size_t n) {
  double squares = 0;
  double most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    squares += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    most = std::max(most, std::abs(static_cast<double>(found[i]) - static_cast<double>(want[i])));
  }
  return most / std::sqrt(squares);
}

/// Losses before each of 20 steps and behind the last, of the parameters of one kind.
template <class B>
std::vector<double> golden_losses(train::trainable_model<B>& m, train::parameter_kind kind,
                                  const nlohmann::json& json,
                                  const std::vector<train::sequence>& sequences) {
  const train::batch<B> b(m.backend(), sequences, m.options().rule, m.config().n_vocab);
  const double scale = 1.0 / train::total_weight(sequences);
  std::vector<double> losses;
  for (index_t step = 1; step <= 20; ++step) {
    m.parameters().clear_gradients();
    losses.push_back(m.forward_backward(b, scale, 0));
    const double rate = json.at("lr").get<double>();
    m.parameters().update(
        {0.9, 0.95, 1e-8, 0.0}, [&](train::parameter_kind k) { return k == kind ? rate : 0.0; },
        1.0, step);
  }
  losses.push_back(m.loss(b, scale));
  return losses;
}

/// The tolerance of the goldens: 2e-3 and ten times how far float32 has strayed by then.
inline double check_losses(const std::vector<double>& found, const nlohmann::json& curve) {
  const auto want = curve.at("loss").get<std::vector<double>>();
  const auto exact = curve.at("loss_f64").get<std::vector<double>>();
  REQUIRE(found.size() == want.size());
  double strayed = 0;
  double worst = 0;
  for (std::size_t t = 0; t < want.size(); ++t) {
    strayed = std::max(strayed, std::abs(want[t] - exact[t]));
    CAPTURE(t);
    CHECK(std::abs(found[t] - exact[t]) <= 2e-3 + 10 * strayed);
    worst = std::max(worst, std::abs(found[t] - exact[t]));
  }
  return worst;
}

template <class B>
void check_gist_training() {
  if (!training_goldens_are_there()) return;
  const golden_arrays ids(golden_dir() / "sag" / "grad.json");
  const golden_arrays g(golden_dir() / "sag" / "train.json");
  auto m = golden_model<B>({train::trained_weights::none, {}, {golden_n_gist, 0, 0}});
  const auto found = golden_losses(m, train::parameter_kind::gist, g.json, golden_batch(ids, 96));
  const double worst = check_losses(found, g.json.at("gist_rows"));
  MESSAGE("gist rows: largest error of a loss " << worst);
  if (worst > 1e-3) return;
  const auto want = g.floats("gist_rows.after_20_steps");
  const auto rows = m.save().gists.input;
  REQUIRE(rows.size() == want.size());
  CHECK(relative_error(rows.data(), want.data(), want.size()) <= 1e-2);
}

template <class B>
void check_lora_training() {
  if (!training_goldens_are_there()) return;
  const golden_arrays ids(golden_dir() / "sag" / "grad.json");
  const golden_arrays g(golden_dir() / "sag" / "train.json");
  train::lora_options lora;
  lora.rank = 8;
  lora.alpha = 16;
  lora.targets = {"query", "value"};
  auto m = golden_model<B>({train::trained_weights::lora, lora, {golden_n_gist, 0, 0}});
  std::vector<model::low_rank> factors = m.factors();
  for (model::low_rank& f : factors) {
    const std::uint64_t w = f.target == "value" ? 1 : 0;
    const std::uint64_t seed = 0x10AA + (2 * static_cast<std::uint64_t>(f.layer) + w) * 4608;
    for (std::size_t at = 0; at < f.a.size(); ++at) {
      const float u = static_cast<float>(splitmix64(seed + at) >> 40) / 16777216.0F;
      f.a[at] = (0.02F * (u - 0.5F)) * 3.4641016F;
    }
  }
  m.load(factors);
  const auto initial = g.floats("lora.layer0.q.A.initial");
  CHECK(relative_error(m.factors().front().a.data(), initial.data(), initial.size()) <= 1e-7);
  const auto found = golden_losses(m, train::parameter_kind::lora, g.json, golden_batch(ids, 96));
  MESSAGE("LoRA: largest error of a loss " << check_losses(found, g.json.at("lora")));
  for (const model::low_rank& f : m.factors()) {
    if (f.layer != 29 || f.target != "value") continue;
    const auto want = g.floats("lora.layer29.v.B.after_20_steps");
    CHECK(relative_error(f.b.data(), want.data(), want.size()) <= 1e-2);
  }
}

/// Gradients of all weights.
template <class B>
void check_gradients(double loss_tolerance) {
  if (!training_goldens_are_there()) return;
  const golden_arrays g(golden_dir() / "sag" / "grad.json");
  auto m = golden_model<B>({train::trained_weights::all, {}, {golden_n_gist, 0, 0}});
  const auto sequences = golden_batch(g, g.shape("ids")[1]);
  REQUIRE(train::total_weight(sequences) == g.json.at("targets").get<double>());
  const train::batch<B> b(m.backend(), sequences, m.options().rule, m.config().n_vocab);
  const double loss = m.forward_backward(b, 1.0 / train::total_weight(sequences), 0);
  CHECK(std::abs(loss - g.json.at("loss").get<double>()) <= loss_tolerance);
  const auto gradient = [&](const std::string& name) {
    for (std::size_t i = 0; i < m.parameters().size(); ++i) {
      if (m.parameters()[i].name == name) return m.parameters()[i].gradient.to_host();
    }
    FAIL("no parameter " << name);
    return std::vector<element_t<B>>{};
  };
  const auto check_array = [&](const std::string& name, const std::string& array) {
    CAPTURE(array);
    const auto found = gradient(name);
    const auto want = g.floats(array);
    REQUIRE(found.size() == want.size());
    CHECK(relative_error(found.data(), want.data(), want.size()) <= 1e-2);
  };
  check_array("gist.input", "gist.total");
  check_array("final_norm", "final_norm");
  check_array("blocks.0.attention_norm", "layer0.attn_norm");
  check_array("blocks.29.feed_forward_norm", "layer29.ffn_norm");
  const auto d = static_cast<std::size_t>(m.config().d_model);
  {
    const auto table = gradient("embedding");
    const auto rows = g.ints("embedding.row_ids");
    const auto want = g.floats("embedding.total");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      CHECK(relative_error(table.data() + static_cast<std::size_t>(rows[i]) * d,
                           want.data() + i * d, d) <= 1e-2);
    }
  }
  struct place {
    const char* golden;
    const char* parameter;
    index_t first_row;
  };
  double worst = 0;
  for (const std::string layer : {"0", "29"}) {
    for (const place p :
         {place{"q", "query+key+value", 0}, place{"k", "query+key+value", 576},
          place{"v", "query+key+value", 768}, place{"o", "output", 0}, place{"gate", "gate+up", 0},
          place{"up", "gate+up", 1536}, place{"down", "down", 0}}) {
      const std::string name = "layer" + layer + "." + p.golden;
      CAPTURE(name);
      const auto found = gradient("blocks." + layer + "." + p.parameter);
      const auto& facts = g.json.at("matrices").at(name);
      const auto shape = facts.at("shape").get<std::vector<std::size_t>>();
      const auto begin = static_cast<std::size_t>(p.first_row) * shape[1];
      double squares = 0;
      for (std::size_t i = 0; i < shape[0] * shape[1]; ++i) {
        squares += static_cast<double>(found[begin + i]) * static_cast<double>(found[begin + i]);
      }
      const double norm = facts.at("frobenius").get<double>();
      CHECK(std::abs(std::sqrt(squares) - norm) <= 1e-2 * norm);
      const auto rows = g.ints(name + ".row_hf");
      const auto cols = g.ints(name + ".col");
      const auto values = g.floats(name + ".value");
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::size_t at = begin + static_cast<std::size_t>(rows[i]) * shape[1] +
                               static_cast<std::size_t>(cols[i]);
        const double error =
            std::abs(static_cast<double>(found[at]) - static_cast<double>(values[i]));
        CHECK(error <= 2e-2 * facts.at("max_abs").get<double>());
        worst = std::max(worst, error / facts.at("max_abs").get<double>());
      }
    }
  }
  MESSAGE("loss " << loss << ", largest error of an entry " << worst
                  << " of the largest entry of its matrix");
}

}  // namespace gistkv::test
