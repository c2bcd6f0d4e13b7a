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

/// Documents of sentences of uneven length, more than go into one launch; gists are no targets.
std::vector<train::sequence> documents(index_t n_vocab, index_t n_gist) {
  random_generator random(3);
  std::vector<train::sequence> all(10);
  for (std::size_t i = 0; i < all.size(); ++i) {
    train::sequence& s = all[i];
    for (std::size_t sentence = 0; sentence < 2 + 7 * i % 11; ++sentence) {
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

/// @param apart  each document is a batch of its own
template <class T>
outcome train_on(const model::host_model& source, const model::gist_rows& gists,
                 const train::model_options& options, const train::lesson& lesson, int n_steps,
                 bool apart = false) {
  using backend = backends::cuda<T>;
  backend be;
  train::trainable_model<backend, T> m(be, source, gists, options);
  std::vector<model::low_rank> factors = m.factors();
  random_generator random(17);
  for (model::low_rank& f : factors) {
    for (float& x : f.b) x = static_cast<float>(0.05 * random.normal());
  }
  m.load(factors);
  const auto texts = documents(source.config.n_vocab, gists.n_gist);
  std::vector<train::batch<backend>> batches;
  std::vector<train::teacher<backend>> teachers;
  for (std::size_t i = 0; i < (apart ? texts.size() : 1); ++i) {
    const auto some = apart ? std::span(texts).subspan(i, 1) : std::span(texts);
    batches.emplace_back(be, some, options.rule, source.config.n_vocab);
    teachers.emplace_back(be, lesson, some, options.rule, source.config.n_vocab);
  }
  outcome found;
  for (int step = 1; step <= n_steps; ++step) {
    found.losses.push_back(0.0);
    for (std::size_t i = 0; i < batches.size(); ++i) {
      found.losses.back() += m.forward_backward(batches[i], 1.0 / train::total_weight(texts), 5,
                                                lesson.empty() ? nullptr : &teachers[i]);
    }
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

/// The optimiser over many tensors beside one after the other.
/// @return what differs: -1 where bits do, else the relative error of the norm
double check_many_tensors() {
  using backend = backends::cuda<bf16>;
  using numbers = vector_view<float, device_space>;
  constexpr index_t sizes[] = {1, 4096, 31, 4097, 70000, 5};
  backend be;
  std::vector<buffer<float, backend>> memory[2];
  std::vector<buffer<bf16, backend>> narrow[2];
  std::vector<trained_tensor<bf16>> tensors[2];
  double squares = 0.0;
  for (int copy = 0; copy < 2; ++copy) {
    random_generator random(23);
    for (const index_t n : sizes) {
      float* at[4];
      for (int i = 0; i < 4; ++i) {  // p, gradient and moments; the second is positive.
        std::vector<float> x;
        for (index_t e = 0; e < n; ++e) x.push_back(static_cast<float>(random.normal()));
        if (i == 3) std::for_each(x.begin(), x.end(), [](float& v) { v *= v; });
        for (const float v : x) squares += copy == 0 && i == 1 ? double{v} * double{v} : 0.0;
        at[i] = memory[copy].emplace_back(be, std::span<const float>(x)).data();
      }
      bf16* rounded = narrow[copy].emplace_back(be, n).data();
      tensors[copy].push_back({at[0], at[1], at[2], at[3], rounded, n, n % 2});
    }
  }
  const std::vector<adamw_options> options = {{1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3},
                                              {3e-3, 0.8, 0.99, 1e-6, 0.0, 0.5, 7}};
  const std::span<const trained_tensor<bf16>> together(tensors[0]);
  const double norm = ops::squared_norm_many<backend, bf16>(be, together);
  ops::adamw_many<backend, bf16>(be, together, options);
  ops::clear_gradients<backend, bf16>(be, together);
  for (const auto& t : tensors[1]) {
    ops::adamw<backend, bf16>(be, numbers(t.p, {t.n}), numbers(t.gradient, {t.n}),
                              numbers(t.first, {t.n}), numbers(t.second, {t.n}),
                              options[static_cast<std::size_t>(t.options)]);
    ops::narrow<backend, bf16>(be, {t.narrow, {t.n}}, numbers(t.p, {t.n}));
    ops::clear(be, numbers(t.gradient, {t.n}));
  }
  for (std::size_t i = 0; i < memory[0].size(); ++i) {
    if (memory[0][i].to_host() != memory[1][i].to_host()) return -1.0;
  }
  for (std::size_t i = 0; i < narrow[0].size(); ++i) {
    const auto a = narrow[0][i].to_host(), b = narrow[1][i].to_host();
    if (std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)) != 0) return -1.0;
  }
  return std::abs(norm - squares) / squares;
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
    train::lesson lesson;
  } forms[] = {
      {"lora", {train::trained_weights::lora, lora, rule}, {}},
      {"lora on gists", {train::trained_weights::lora, on_gists, rule}, {}},
      {"lora on gists, taught", {train::trained_weights::lora, on_gists, rule}, {0.5, 2.0}},
      {"all weights", {train::trained_weights::all, {}, rule}, {}}};
  bool passed = true;
  const auto expect = [&passed](const std::string& what, double found, double most) {
    const bool holds = found <= most;  // Not for NaN.
    std::printf("%-52s %.3g, at most %.3g%s\n", what.c_str(), found, most, holds ? "" : "  FAILED");
    passed = passed && holds;
  };
  const double off = check_many_tensors();
  expect("many tensors at once: bits that differ", off < 0.0 ? 1.0 : 0.0, 0.0);
  expect("many tensors at once: the norm", off, 1e-12);
  for (const auto& form : forms) {
    const std::string name = form.name;
    constexpr int n_steps = 20;
    const outcome exact = train_on<float>(source, gists, form.options, form.lesson, n_steps);
    const outcome narrow = train_on<bf16>(source, gists, form.options, form.lesson, n_steps);
    const outcome again = train_on<bf16>(source, gists, form.options, form.lesson, n_steps);
    // Activations of 8 bits: some 0.4 % each, which layers add up; a term that is wrong is off
    // by 1.
    expect(name + ": gradients of bf16 beside float",
           relative_distance(narrow.gradients, exact.gradients), 0.05);
    if (form.options.trained == train::trained_weights::all) {  // No dropout.
      // Rows are the same; sums over rows are rounded in another order.
      const outcome apart = train_on<bf16>(source, gists, form.options, form.lesson, 1, true);
      expect(name + ": gradients of documents together and apart",
             relative_distance(narrow.gradients, apart.gradients), 0.02);
    }
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
