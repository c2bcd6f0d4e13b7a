// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// training [--quick]: steps of training in the shape of SmolLM2-135M with random weights, on the
// GPU that is there: gists and LoRA of rank 16 on all rows, N_g = 4, three sentences kept raw. One
// JSON object a line: rows (gists included) a second of forward, backward and update, and the time
// without the backward pass; windows of 512 rows stand for documents, many in a batch. Then the
// optimiser by itself (norm, AdamW, clearing), all tensors in one call and one after the other.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/core/random.hpp>
#include <gistkv/train/trainable_model.hpp>

#include "device.hpp"
#include "random_model.hpp"

namespace {

using namespace gistkv;
using backend = backends::cuda<bf16>;

/// A window of sentences of 25 tokens on average.
train::sequence window(index_t length, index_t n_vocab, index_t n_gist, std::uint64_t seed) {
  random_generator random(seed);
  train::sequence s;
  while (static_cast<index_t>(s.tokens.size()) < length) {
    for (index_t i = 5 + random.below(41); i > 0; --i) {
      s.tokens.push_back(static_cast<token_t>(random.below(n_vocab)));
      s.weights.push_back(1.0F);
    }
    for (index_t g = 0; g < n_gist; ++g) {
      s.tokens.push_back(static_cast<token_t>(n_vocab + g));
      s.weights.push_back(0.0F);
    }
  }
  s.tokens.resize(static_cast<std::size_t>(length));
  s.weights.resize(static_cast<std::size_t>(length));
  return s;
}

template <class F>
double median_ms(backend& be, int repetitions, F&& f) {
  std::vector<double> ms;
  for (int i = 0; i < repetitions + 2; ++i) {
    be.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    f();
    be.synchronize();
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
                     .count());
  }
  ms.erase(ms.begin(), ms.begin() + 2);  // Memory and plans are made.
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (!has_device()) return 77;
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const model::model_config c = config_135m();
  const auto source = random_model(c);
  const auto gists = model::untrained_gist_rows(source, 4, 1);
  backend be;
  train::trainable_model<backend> m(be, source, gists,
                                    {train::trained_weights::lora, {}, sentence_rule{4, 3, 1}});
  for (const index_t length : {512, 2048, 4096}) {
    for (const index_t n_rows : {8192, 16384, 32768}) {
      const index_t n_windows = n_rows / length;
      if (quick && n_rows > 8192) continue;
      std::vector<train::sequence> all;
      for (index_t i = 0; i < n_windows; ++i) {
        all.push_back(window(length, c.n_vocab, 4, 7 + static_cast<std::uint64_t>(i)));
      }
      const train::batch<backend> b(be, all, m.options().rule, c.n_vocab);
      const double scale = 1.0 / train::total_weight(all);
      index_t step = 0;
      const int repetitions = quick ? 3 : 7;
      const double whole = median_ms(be, repetitions, [&] {
        m.forward_backward(b, scale, 1);
        const double norm = m.parameters().gradient_norm();
        m.parameters().update(
            {}, [](train::parameter_kind) { return 1e-4; }, 1.0 / std::max(1.0, norm), ++step);
        m.parameters().clear_gradients();
      });
      const double forward = median_ms(be, repetitions, [&] { m.loss(b, scale); });
      std::printf(
          "{\"what\": \"train\", \"model\": \"135M\", \"path\": \"LoRA, all rows\", \"n\": %lld, "
          "\"batch\": %lld, \"ms\": %.3f, \"forward_ms\": %.3f, \"tokens_per_s\": %.0f}\n",
          static_cast<long long>(length), static_cast<long long>(n_windows), whole, forward,
          1e3 * static_cast<double>(length * n_windows) / whole);
      std::fflush(stdout);
    }
  }
  auto& set = m.parameters();
  const auto optimiser = [&](const char* path, auto&& f) {
    std::printf(
        "{\"what\": \"optimiser\", \"model\": \"135M\", \"path\": \"%s\", \"n\": %lld, \"batch\": "
        "1, "
        "\"ms\": %.3f}\n",
        path, static_cast<long long>(set.n_elements()), median_ms(be, quick ? 3 : 15, f));
  };
  // A rate of 0 leaves the model as it is.
  optimiser("all tensors at once", [&] {
    set.gradient_norm();
    set.update(
        {}, [](train::parameter_kind) { return 0.0; }, 1.0, 1);
    set.clear_gradients();
  });
  optimiser("one after the other", [&] {
    using numbers = vector_view<float, device_space>;
    for (std::size_t i = 0; i < set.size(); ++i) {
      const auto t = set[i].tensor();
      ops::squared_norm<backend, bf16>(be, numbers(t.gradient, {t.n}));
      ops::adamw<backend, bf16>(be, numbers(t.p, {t.n}), numbers(t.gradient, {t.n}),
                                numbers(t.first, {t.n}), numbers(t.second, {t.n}), {.rate = 0.0});
      ops::narrow<backend, bf16>(be, {t.narrow, {t.n}}, numbers(t.p, {t.n}));
      ops::clear(be, numbers(t.gradient, {t.n}));
    }
  });
  return 0;
}
