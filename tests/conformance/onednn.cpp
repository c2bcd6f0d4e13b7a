// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The suite on every instruction set that this CPU has, and what only this backend promises.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/conformance/broken.hpp>
#include <gistkv/conformance/run.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/attention.hpp>

namespace gistkv {
namespace {

using backends::instruction_set;
using backends::onednn;

/// From portable to the best that this CPU has.
std::vector<instruction_set> instruction_sets() {
  std::vector<instruction_set> sets;
  for (int i = 0; i <= static_cast<int>(backends::best_instruction_set()); ++i) {
    sets.push_back(static_cast<instruction_set>(i));
  }
  return sets;
}

TEST_CASE_TEMPLATE("onednn conforms on every instruction set", T, float, bf16) {
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(backends::to_string(isa));
    const bool best = isa == backends::best_instruction_set();
    onednn<T> be({.n_threads = best ? 0 : 1, .isa = isa});
    conformance::report report;
    conformance::run(be, report, {.model_shapes = best});
    MESSAGE(backends::to_string(isa), "\n", conformance::format(report));
    CHECK(report.passed());
    CHECK(report.n_skipped() == 3);  // The other element types.
  }
}

TEST_CASE("a fault in onednn is seen") {
  using enum conformance::fault;
  for (const auto fault :
       {linear_drops_last_column, norm_ignores_eps, scatter_rows_writes_past_the_end}) {
    CAPTURE(static_cast<int>(fault));
    conformance::broken<onednn<float>> be(fault, backends::onednn_options{.n_threads = 1});
    conformance::report report;
    conformance::run(be, report, {.model_shapes = false});
    CHECK_FALSE(report.passed());
  }
}

/// Tiles, splits of the keys and threads that no case of the suite is large enough for.
TEST_CASE_TEMPLATE("native attention equals the composed one", T, float, bf16) {
  constexpr index_t n_kv_heads = 2, n_heads = 6, head_dim = 64;
  constexpr index_t n_shared = 300, n_own = 157, n_past = 40;
  for (const instruction_set isa : instruction_sets()) {
    for (const index_t n_q : {1, 3, 333}) {
      CAPTURE(backends::to_string(isa));
      CAPTURE(n_q);
      onednn<T> be({.n_threads = 3, .isa = isa});
      random_generator random(7);
      const auto numbers = [&](index_t n) {
        std::vector<T> x;
        for (index_t i = 0; i < n; ++i) x.push_back(T(static_cast<float>(random.normal())));
        return buffer<T, onednn<T>>(be, std::span<const T>(x));
      };
      const index_t n_local = n_past + n_q;
      const auto q = numbers(n_q * n_heads * head_dim);
      const auto k = numbers(n_kv_heads * (n_shared + n_own + n_local) * head_dim);
      const auto v = numbers(n_kv_heads * (n_shared + n_own + n_local) * head_dim);
      const auto part = [&](index_t begin, index_t rows) {
        const index_t at = n_kv_heads * begin * head_dim;
        const auto view = [&](const auto& x) {
          return tensor_view<const T, 3>(x.data() + at, {n_kv_heads, rows, head_dim});
        };
        return kv_span<T, host_space>{view(k), view(v)};
      };
      const kv_spans<T, host_space> kv{part(0, n_shared), part(n_shared, n_own),
                                       part(n_shared + n_own, n_local)};
      std::vector<visible_spans> spans;
      for (index_t i = 0; i < n_q; ++i) {
        const index_t anchors = n_q == 1 ? n_shared + n_own : (n_shared + n_own) * i / n_q;
        spans.push_back({static_cast<std::int32_t>(anchors), static_cast<std::int32_t>(i / 2),
                         static_cast<std::int32_t>(n_past + i + 1)});
      }
      const span_list list{spans, spans.data()};
      workspace<onednn<T>> scratch(be, composed::attention_workspace_size<onednn<T>, T>(
                                           n_q, n_heads, n_kv_heads, n_shared + n_own + n_local));
      const auto run = [&](bool native) {
        buffer<T, onednn<T>> o(be, n_q * n_heads * head_dim);
        const auto out = o.view({n_q, n_heads, head_dim});
        const auto in = q.view({n_q, n_heads, head_dim});
        if (native) {
          be.attention(out, in, kv, list, 0.125, {});
        } else {
          composed::attention<onednn<T>, T>(be, out, in, kv, list, 0.125, scratch, {});
        }
        return o.to_host();
      };
      const auto fused = run(true);
      const auto composed = run(false);
      float worst = 0.0F, largest = 0.0F;
      for (std::size_t i = 0; i < fused.size(); ++i) {
        const auto want = static_cast<float>(composed[i]);
        worst = std::max(worst, std::abs(static_cast<float>(fused[i]) - want));
        largest = std::max(largest, std::abs(want));
      }
      CHECK(largest > 0.2F);
      // The composition rounds scores and weights to T; values are sums of numbers around 1.
      CHECK(worst < (std::same_as<T, bf16> ? 0.03F : 3e-6F));
    }
  }
}

/// More row counts than products are kept for.
TEST_CASE("products of any number of rows, one after the other") {
  onednn<float> be({.n_threads = 2});
  constexpr index_t d_in = 4, d_out = 160, most_rows = 700;
  const std::vector<float> ones(static_cast<std::size_t>(most_rows * d_out), 1.0F);
  const auto w = be.pack(
      {"w", weight_type::f32, d_out, d_in, std::as_bytes(std::span(ones).first(d_out * d_in))});
  const buffer<float, onednn<float>> x(be, std::span(ones).first(most_rows * d_in));
  buffer<float, onednn<float>> o(be, most_rows * d_out);
  for (index_t n = 1; n <= most_rows; ++n) {
    CAPTURE(n);
    o.view({n, d_out})(n - 1, d_out - 1) = 0.0F;
    REQUIRE_NOTHROW(be.linear(o.view({n, d_out}), x.view({n, d_in}), w));
    REQUIRE(o.view({n, d_out})(n - 1, d_out - 1) == 4.0F);
  }
}

TEST_CASE("an instruction set that the CPU lacks is refused") {
  const auto best = static_cast<int>(backends::best_instruction_set());
  for (int i = best + 1; i <= static_cast<int>(instruction_set::avx512_bf16); ++i) {
    const auto isa = static_cast<instruction_set>(i);
    CHECK_THROWS_WITH_AS(onednn<float>({.isa = isa}),
                         ("onednn: this CPU has " +
                          std::string(backends::to_string(backends::best_instruction_set())) +
                          " at most, " + std::string(backends::to_string(isa)) + " was asked for")
                             .c_str(),
                         argument_error);
  }
}

TEST_CASE_TEMPLATE("a weight with too few bytes is refused", T, float, bf16) {
  for (const instruction_set isa : instruction_sets()) {
    onednn<T> be({.isa = isa});
    for (const weight_type type : {weight_type::f32, weight_type::bf16, weight_type::q8_0,
                                   weight_type::q4_1, weight_type::q6_k}) {
      const std::size_t need = row_bytes(type, 256) * 3;
      const std::vector<std::byte> enough(need);
      CHECK(be.pack({"w", type, 3, 256, enough}).rows() == 3);
      CHECK_THROWS_WITH_AS(be.pack({"w", type, 3, 256, std::span(enough).first(need - 1)}),
                           ("pack: 'w' holds " + std::to_string(need - 1) + " bytes, expected " +
                            std::to_string(need))
                               .c_str(),
                           shape_error);
    }
  }
}

}  // namespace
}  // namespace gistkv
