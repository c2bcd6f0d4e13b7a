// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Times the cases of the conformance suite, and further shapes of a real model, on the eigen
// backend. A case whose result is wrong is reported as an error and not timed.
//
//   benchmark_ops --benchmark_filter=linear
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/conformance/run.hpp>

namespace {

using namespace gistkv;
using backend = backends::eigen<float>;

/// The rates of GFLOP and GB count what the case needs at least (cases.hpp), whatever is done in
/// fact.
template <class Case>
void time_case(benchmark::State& state, backend& be, const Case& c) {
  conformance::trial<backend, float, Case> trial(be, c);
  trial();
  be.synchronize();
  conformance::result r{.op = Case::op, .dtype = "f32", .path = "", .case_text = c.text()};
  trial.verify(r);
  if (!r.passed()) {
    state.SkipWithError(r.failure.c_str());
    return;
  }
  for (auto _ : state) {
    trial();
    be.synchronize();
  }
  const auto rate = [](double x) {
    return benchmark::Counter(x * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GFLOP"] = rate(c.flops());
  state.counters["GB"] = rate(c.bytes(sizeof(float)));
}

template <class Case>
void add(backend& be, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    if (c.flops() == 0.0 && c.bytes(sizeof(float)) == 0.0) continue;
    benchmark::RegisterBenchmark((std::string(Case::op) + "/" + c.text()).c_str(),
                                 [&be, c](benchmark::State& s) { time_case(s, be, c); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

/// One layer of SmolLM2-135M on 512 rows, the length of a prompt.
void add_prompt(backend& be) {
  using namespace conformance;
  add<linear_case>(be, {{.n = 512, .d_in = 576, .d_out = 576, .seed = 1},
                        {.n = 512, .d_in = 576, .d_out = 1536, .seed = 2},
                        {.n = 512, .d_in = 1536, .d_out = 576, .seed = 3}});
  add<norm_case>(be, {{.n = 512, .d = 576, .seed = 4}});
  add<rope_case>(be, {{.n = 512, .n_heads = 9, .head_dim = 64, .seed = 5}});
  add<activation_case>(be, {{.n = 512, .d = 1536, .seed = 6}});
  add<add_case>(be, {{.n = 512, .d = 576, .seed = 7}});
  add<attention_case>(
      be, {{.n_q = 512,
            .n_heads = 9,
            .n_kv_heads = 3,
            .n_local = 512,
            .mask = mask_choice::causal,
            .seed = 8},
           {.n_q = 1, .n_heads = 9, .n_kv_heads = 3, .n_own = 512, .n_local = 64, .seed = 9}});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  backend be;
  benchmark::AddCustomContext(
      "backend", std::string(backend::name) + ", " + std::to_string(be.n_threads()) + " threads");
  using namespace conformance;
  add_prompt(be);
  add(be, model_linear_cases());
  add(be, linear_cases());
  add(be, matmul_cases());
  add(be, norm_cases());
  add(be, rope_cases());
  add(be, activation_cases());
  add(be, add_cases());
  add(be, softmax_cases());
  add(be, gather_cases());
  add(be, scatter_cases());
  add(be, attention_cases());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
