// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Times the cases of the conformance suite, and further shapes of a real model, on every backend
// that was built. A case whose result is wrong is reported as an error and not timed.
//
//   benchmark_ops --benchmark_filter=onednn/linear
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#if defined(GISTKV_BENCH_ONEDNN)
#include <gistkv/backends/onednn.hpp>
#endif
#include <gistkv/conformance/run.hpp>

namespace {

using namespace gistkv;

/// The rates of GFLOP and GB count what the case needs at least (cases.hpp), whatever is done in
/// fact.
template <class B, class Case>
void time_case(benchmark::State& state, B& be, const Case& c) {
  conformance::trial<B, float, Case> trial(be, c);
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

template <class Case, class B>
void add(B& be, const std::string& form, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    if (c.flops() == 0.0 && c.bytes(sizeof(float)) == 0.0) continue;
    benchmark::RegisterBenchmark((form + "/" + Case::op + "/" + c.text()).c_str(),
                                 [&be, c](benchmark::State& s) { time_case(s, be, c); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

/// One layer of SmolLM2-135M on 512 rows, the length of a prompt.
template <class B>
void add_prompt(B& be, const std::string& form) {
  using namespace conformance;
  for (const weight_type type : {weight_type::bf16, weight_type::q8_0, weight_type::q4_1}) {
    for (const index_t n : {1, 5, 512}) {
      add<linear_case>(be, form,
                       {{.n = n, .d_in = 576, .d_out = 576, .weight = type, .seed = 1},
                        {.n = n, .d_in = 576, .d_out = 1536, .weight = type, .seed = 2},
                        {.n = n, .d_in = 1536, .d_out = 576, .weight = type, .seed = 3}});
    }
  }
  add<norm_case>(be, form, {{.n = 512, .d = 576, .seed = 4}});
  add<rope_case>(be, form, {{.n = 512, .n_heads = 9, .head_dim = 64, .seed = 5}});
  add<activation_case>(be, form, {{.n = 512, .d = 1536, .seed = 6}});
  add<add_case>(be, form, {{.n = 512, .d = 576, .seed = 7}});
  // A chunk of a prompt and one token, behind little and behind 8k rows of gists.
  for (const index_t n_own : {512, 8192}) {
    for (const index_t n_q : {1, 512}) {
      add<attention_case>(be, form,
                          {{.n_q = n_q,
                            .n_heads = 9,
                            .n_kv_heads = 3,
                            .n_own = n_own,
                            .n_local = std::max<index_t>(n_q, 20),
                            .mask = mask_choice::sentences,
                            .seed = 8}});
    }
  }
}

template <class B>
void add_all(B& be, const std::string& form) {
  using namespace conformance;
  add_prompt(be, form);
  add(be, form, model_linear_cases());
  add(be, form, linear_cases());
  add(be, form, matmul_cases());
  add(be, form, norm_cases());
  add(be, form, rope_cases());
  add(be, form, activation_cases());
  add(be, form, add_cases());
  add(be, form, softmax_cases());
  add(be, form, gather_cases());
  add(be, form, scatter_cases());
  add(be, form, attention_cases());
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  backends::eigen<float> reference;
  benchmark::AddCustomContext("threads", std::to_string(reference.n_threads()));
  add_all(reference, "eigen f32");
#if defined(GISTKV_BENCH_ONEDNN)
  backends::onednn<float, bf16> fast;
  backends::onednn<float> exact;
  add_all(fast, "onednn f32*bf16");
  add_all(exact, "onednn f32");
#endif
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
