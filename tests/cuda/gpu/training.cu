// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cuda/gpu/conformance.cuh>
#include <cuda/gpu/small_model.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/train/trainable_model.hpp>

namespace gistkv::gpu_tests {
namespace {

/// Documents of sentences of uneven length; gists are no targets.
std::vector<train::sequence> documents(index_t n_vocab, index_t n_gist) {
  random_generator random(3);
  std::vector<train::sequence> all(3);
  for (train::sequence& s : all) {
    for (int sentence = 0; sentence < 12; ++sentence) {
      for (index_t i = 3 + random.below(25); i > 0; --i) {
        s.tokens.push_back(static_cast<token_t>(random.below(n_vocab)));
        s.weights.push_back(1.0F);
      }
      for (index_t g = 0; g < n_gist; ++g) {
        s.tokens.push_back(static_cast<token_t>(n_vocab + g));
        s.weights.push_back(0.0F);
      }
    }
  }
  return all;
}

struct outcome {
  std::vector<float> gradients;  ///< Of all parameters, before the first step.
  std::vector<double> losses;    ///< Of each step.
};

template <class T>
outcome train_on(const model::host_model& source, const model::gist_rows& gists,
                 const train::model_options& options, int n_steps) {
  using backend = backends::cuda<T>;
  backend be;
  train::trainable_model<backend, T> m(be, source, gists, options);
  std::vector<model::low_rank> factors = m.save().factors;
  random_generator random(17);
  for (model::low_rank& f : factors) {
    for (float& x : f.b) x = static_cast<float>(0.05 * random.normal());
  }
  m.load(factors);
  const auto texts = documents(source.config.n_vocab, gists.n_gist);
  const train::batch<backend> b(be, texts, options.rule, source.config.n_vocab);
  outcome found;
  for (int step = 1; step <= n_steps; ++step) {
    found.losses.push_back(m.forward_backward(b, 1.0 / train::total_weight(texts), 5));
    auto& set = m.parameters();
    for (std::size_t i = 0; step == 1 && i < set.size(); ++i) {
      const std::vector<float> gradient = set[i].gradient.to_host();
      found.gradients.insert(found.gradients.end(), gradient.begin(), gradient.end());
    }
    set.update(
        {}, [](train::parameter_kind) { return 2e-3; }, 1.0, step);
    set.clear_gradients();
  }
  return found;
}

}  // namespace

bool check_training() {
  const auto source = small_model();
  const auto gists = model::untrained_gist_rows(source, 4, 3);
  train::lora_options lora;
  lora.dropout = 0.1;
  train::lora_options on_gists = lora;
  on_gists.gist_rows_only = true;
  const sentence_rule rule{4, 1, 1};
  const struct {
    const char* name;
    train::model_options options;
  } forms[] = {{"lora", {train::trained_weights::lora, lora, rule}},
               {"lora on gists", {train::trained_weights::lora, on_gists, rule}},
               {"all weights", {train::trained_weights::all, {}, rule}}};
  bool passed = true;
  const auto expect = [&passed](const std::string& what, double found, double most) {
    const bool holds = found <= most;  // Not for NaN.
    std::printf("%-52s %.3g, at most %.3g%s\n", what.c_str(), found, most, holds ? "" : "  FAILED");
    passed = passed && holds;
  };
  for (const auto& form : forms) {
    const std::string name = form.name;
    constexpr int n_steps = 20;
    const outcome exact = train_on<float>(source, gists, form.options, n_steps);
    const outcome narrow = train_on<bf16>(source, gists, form.options, n_steps);
    const outcome again = train_on<bf16>(source, gists, form.options, n_steps);
    // Activations of 8 bits: some 0.4 % each, which layers add up; a term that is wrong is off
    // by 1.
    expect(name + ": gradients of bf16 beside float",
           relative_distance(narrow.gradients, exact.gradients), 0.05);
    double strayed = 0.0;
    for (std::size_t i = 0; i < exact.losses.size(); ++i) {
      strayed = std::max(strayed, std::abs(narrow.losses[i] - exact.losses[i]));
    }
    expect(name + ": 20 losses of bf16 beside float", strayed, 0.05);
    expect(name + ": the loss falls", exact.losses.back() - exact.losses.front(), -0.1);
    const bool same = again.losses == narrow.losses &&
                      std::memcmp(again.gradients.data(), narrow.gradients.data(),
                                  narrow.gradients.size() * sizeof(float)) == 0;
    expect(name + ": bits that differ in a second run", same ? 0.0 : 1.0, 0.0);
  }
  return passed;
}

}  // namespace gistkv::gpu_tests
