// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cuda/gpu/conformance.cuh>
#include <cuda/gpu/small_model.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <gistkv/backends/cuda.cuh>
#include <gistkv/model/session.hpp>

namespace gistkv::gpu_tests {
namespace {

using backend = backends::cuda<bf16>;

/// Logits behind each step, one behind the other, of a text of 60 sentences: the first 40 tokens at
/// once, then one by one, gists together with the token before them.
template <class KV>
std::vector<float> read(const backends::cuda_options& options, const model::host_model& source,
                        const model::gist_rows& gists) {
  backend be(options);
  const model::transformer<backend, bf16, KV> m(be, source, gists);
  model::session<backend, bf16, KV> s(
      m, cache::cache_options{.rule = {.n_gist = gists.n_gist, .recent = 1, .n_sink = 1}},
      {.past_context = true});
  std::vector<token_t> ids;
  random_generator random(5);
  for (int sentence = 0; sentence < 60; ++sentence) {
    for (index_t i = 4 + random.below(30); i > 0; --i) {
      ids.push_back(static_cast<token_t>(random.below(source.config.n_vocab)));
    }
    for (index_t g = 0; g < gists.n_gist; ++g) {
      ids.push_back(static_cast<token_t>(source.config.n_vocab + g));
    }
  }
  std::vector<float> all;
  int n_steps = 0;
  for (std::size_t i = 0; i < ids.size();) {
    std::size_t n = i == 0 ? 40 : 1;
    while (i + n < ids.size() && m.is_gist(ids[i + n])) ++n;
    if (n_steps++ == 200) s = s.fork();
    s.read(std::span(ids).subspan(i, n));
    all.insert(all.end(), s.logits().begin(), s.logits().end());
    i += n;
  }
  return all;
}

}  // namespace

bool check_steps() {
  const auto source = small_model();
  const auto gists = model::untrained_gist_rows(source, 4, 3);
  const auto single = read<bf16>({.graphs = false, .few_rows = false}, source, gists);
  const auto fused = read<bf16>({.graphs = false}, source, gists);
  const auto repeated = read<bf16>({}, source, gists);
  const auto narrow = read<q8>({}, source, gists);
  const auto narrow_single = read<q8>({.graphs = false, .few_rows = false}, source, gists);
  bool passed = true;
  const auto expect = [&passed](const char* what, double found, double least, double most) {
    const bool holds = found >= least && found <= most;
    std::printf("%-52s %.3g, expected %.3g to %.3g%s\n", what, found, least, most,
                holds ? "" : "  FAILED");
    passed = passed && holds;
  };
  // Roundings of bf16 add up over the layers; what is wrong by more than that is off by about 1.
  expect("fused calls beside single ones", relative_distance(fused, single), 0.0, 0.03);
  expect("graphs beside single launches", relative_distance(repeated, fused), 0.0, 0.01);
  expect("caches of q8 beside bf16", relative_distance(narrow, repeated), 1e-6, 0.06);
  expect("caches of q8, fused calls beside single ones", relative_distance(narrow, narrow_single),
         0.0, 0.06);
  return passed;
}

}  // namespace gistkv::gpu_tests
