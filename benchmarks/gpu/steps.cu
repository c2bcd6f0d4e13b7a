// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// steps [--quick]: a whole model on the GPU that is there, with random weights in the shapes of
// SmolLM2-135M and Llama-3.2-3B: prefill of a text, a decode step behind it, the step that closes a
// sentence; with gists, with gists in q8, and as plain causal attention over the same text. One
// JSON object a line; beside each step the time that reading weights and caches takes at the
// measured speed of a copy.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/core/random.hpp>
#include <gistkv/model/transformer.hpp>

#include "device.hpp"
#include "random_model.hpp"

namespace {

using namespace gistkv;
using backend = backends::cuda<bf16>;

constexpr index_t sentence = 24;  ///< Text tokens.
constexpr index_t chunk = 4096;   ///< Rows of a prefill at a time.

double weight_bytes(const model::model_config& c) {
  const index_t heads = (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
  const index_t layer = c.d_model * (heads + 3 * c.d_ff);
  return 2.0 * static_cast<double>(c.n_layers * layer + c.n_vocab * c.d_model);
}

template <class F>
double milliseconds(backend& be, F&& f) {
  be.synchronize();
  const auto begin = std::chrono::steady_clock::now();
  f();
  be.synchronize();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
      .count();
}
double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

double copy_speed(backend& be) {
  const index_t n = index_t{1} << 30;
  buffer<std::byte, backend> from(be, n), to(be, n);
  std::vector<double> ms;
  for (int i = 0; i < 8; ++i) {
    ms.push_back(milliseconds(be, [&] { be.copy(to.data(), from.data(), from.bytes()); }));
  }
  return 2e-6 * static_cast<double>(n) / median(ms);  // GB/s
}

struct shape {
  std::string model;
  const char* path = "";
  index_t n = 0;  ///< Text tokens.
  int batch = 1;
};
void print(const char* what, const shape& s, double ms, double floor_ms) {
  std::printf(
      "{\"what\": \"%s\", \"model\": \"%s\", \"path\": \"%s\", \"n\": %lld, \"batch\": %d, "
      "\"ms\": %.5f",
      what, s.model.c_str(), s.path, static_cast<long long>(s.n), s.batch, ms);
  if (floor_ms > 0)
    std::printf(", \"floor_ms\": %.5f, \"over_floor\": %.3f", floor_ms, ms / floor_ms);
  std::printf("}\n");
  std::fflush(stdout);
}

/// Sequences of one model that have read n text tokens each.
template <class KV>
class reader {
 public:
  using model_type = model::transformer<backend, bf16, KV>;
  using step = typename model_type::step;

  reader(backend& be, const model_type& m, const shape& s)
      : be_(be), m_(m), s_(s), logits_(be, s.batch * m.n_vocab()) {
    // One for all: addresses stay where they are.
    const index_t rows = std::max(chunk, index_t{8} * s.batch);
    hidden_ = buffer<bf16, backend>(be, rows * m.config().d_model);
    cache::gist_cache<backend, KV> empty = fresh();
    const std::vector<token_t> longest(static_cast<std::size_t>(rows));
    const step all{&empty, longest, {}};
    scratch_ = std::make_unique<workspace<backend>>(be, 2 * m.workspace_size({&all, 1}));
  }

  double prefill(int repetitions) {
    const std::vector<token_t> ids = text();
    std::vector<double> ms;
    for (int i = 0; i < repetitions; ++i) {
      caches_.clear();
      caches_.push_back(fresh());
      ms.push_back(milliseconds(be_, [&] {
        for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
          const auto part = std::span(ids).subspan(begin);
          forward(part.first(std::min(part.size(), static_cast<std::size_t>(chunk))), 1);
        }
      }));
    }
    return median(ms);
  }
  /// Steps as when text is written: tokens one by one, and each sentence's last one with its gists.
  /// @returns medians of the decode steps and of the closing ones
  std::pair<double, double> write(int n_sentences) {
    while (static_cast<int>(caches_.size()) < s_.batch) caches_.push_back(caches_.front().copy());
    std::vector<double> steps, closes;
    std::vector<token_t> last{1};
    for (index_t g = 0; g < m_.n_gist(); ++g)
      last.push_back(m_.first_gist() + static_cast<token_t>(g));
    const std::vector<token_t> one{1};
    for (int i = 0; i < n_sentences; ++i) {
      for (index_t t = 1; t < sentence; ++t) {
        steps.push_back(milliseconds(be_, [&] { forward(one, s_.batch); }));
      }
      closes.push_back(milliseconds(be_, [&] { forward(last, s_.batch); }));
    }
    return {median(steps), median(closes)};
  }
  double cache_bytes() const {
    return static_cast<double>(caches_.front().bytes_held()) * s_.batch;
  }

 private:
  cache::gist_cache<backend, KV> fresh() const {
    return {be_, m_.cache_shape(), {.rule = {.n_gist = m_.n_gist()}}};
  }
  std::vector<token_t> text() const {
    std::vector<token_t> ids;
    random_generator random(3);
    for (index_t i = 0; i < s_.n; ++i) {
      ids.push_back(static_cast<token_t>(random.below(m_.config().n_vocab)));
      if (i % sentence != sentence - 1) continue;
      for (index_t g = 0; g < m_.n_gist(); ++g) {
        ids.push_back(m_.first_gist() + static_cast<token_t>(g));
      }
    }
    return ids;
  }
  /// The same tokens for the first `batch` sequences, and the logits behind the last ones.
  void forward(std::span<const token_t> tokens, int batch) {
    std::vector<step> steps;
    for (int b = 0; b < batch; ++b) {
      steps.push_back({&caches_[static_cast<std::size_t>(b)], tokens, {}});
    }
    const auto n = static_cast<index_t>(tokens.size());
    const auto hidden = hidden_.view({n * batch, m_.config().d_model});
    m_.forward(steps, hidden, *scratch_);
    // Every n-th row is a sequence's last.
    const matrix_view<const bf16, device_space> last(hidden.data() + (n - 1) * hidden.stride(0),
                                                     {batch, hidden.extent(1)},
                                                     {n * hidden.stride(0), 1});
    m_.logits(logits_.view({batch, m_.n_vocab()}), last);
  }

  backend& be_;
  const model_type& m_;
  shape s_;
  buffer<bf16, backend> hidden_, logits_;
  std::unique_ptr<workspace<backend>> scratch_;
  std::vector<cache::gist_cache<backend, KV>> caches_;
};

template <class KV>
void run(backend& be, const model::host_model& source, const shape& base, index_t n_gist,
         const std::vector<index_t>& lengths, const std::vector<int>& batches, double gb_s) {
  model::gist_rows gists{n_gist, {}, {}};
  gists.input.assign(static_cast<std::size_t>(n_gist * source.config.d_model), 0.01F);
  const model::transformer<backend, bf16, KV> m(be, source, gists);
  const double weights = weight_bytes(source.config);
  for (const index_t n : lengths) {
    for (const int batch : batches) {
      shape s = base;
      s.n = n;
      s.batch = batch;
      try {
        reader<KV> r(be, m, s);
        const double ms = r.prefill(batch == 1 ? 3 : 1);
        if (batch == 1) print("prefill", s, ms, 0.0);
        const auto [step, close] = r.write(4);
        const double floor_ms = 1e-6 * (weights + r.cache_bytes()) / gb_s;
        print("step", s, step, floor_ms);
        if (n_gist > 0) print("close step", s, close, floor_ms);
      } catch (const backend_error& e) {
        std::printf(
            "{\"what\": \"skipped\", \"model\": \"%s\", \"path\": \"%s\", \"n\": %lld, \"batch\": "
            "%d, \"reason\": \"%s\"}\n",
            s.model.c_str(), s.path, static_cast<long long>(n), batch, e.what());
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  if (!has_device()) return 77;
  try {
    backend be, single({.graphs = false, .few_rows = false});
    const double gb_s = copy_speed(be);
    std::printf("{\"what\": \"ceilings\", \"copy_gb_s\": %.1f}\n", gb_s);
    const model::model_config small = config_135m();
    model::model_config large = small;
    large.n_layers = 28;
    large.d_model = 3072;
    large.n_heads = 24;
    large.n_kv_heads = 8;
    large.head_dim = 128;
    large.d_ff = 8192;
    large.n_vocab = 128256;
    const auto both = [&](const char* name, const model::model_config& c,
                          const std::vector<index_t>& lengths, const std::vector<int>& batches) {
      const model::host_model source = random_model(c);
      const std::vector<int> one{1};
      run<bf16>(be, source, {name, "gists"}, 4, lengths, batches, gb_s);
      run<q8>(be, source, {name, "gists, q8"}, 4, lengths, batches, gb_s);
      run<bf16>(single, source, {name, "gists, single launches"}, 4, lengths, one, gb_s);
      run<bf16>(be, source, {name, "dense causal"}, 0, lengths, one, gb_s);
    };
    if (quick) {
      both("135M", small, {8192}, {1});
    } else {
      both("135M", small, {8192, 32768}, {1, 8, 32});
      both("3B", large, {32768, 131072}, {1, 32});
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
