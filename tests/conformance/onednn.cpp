// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The suite on every instruction set that this CPU has, and what only this backend promises.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/conformance/broken.hpp>
#include <gistkv/conformance/run.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/linear.hpp>

#include "support/instruction_sets.hpp"

namespace gistkv {
namespace {

using backends::instruction_set;
using backends::onednn;
using test::instruction_sets;
using exact = onednn<float>;
using fast = onednn<float, bf16>;
using half = onednn<bf16>;

TEST_CASE_TEMPLATE("onednn conforms on every instruction set", B, exact, fast, half) {
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(backends::to_string(isa));
    const bool best = isa == backends::best_instruction_set();
    B be({.n_threads = best ? 0 : 1, .isa = isa});
    conformance::report report;
    conformance::run(be, report, {.model_shapes = best});
    MESSAGE(backends::to_string(isa), "\n", conformance::format(report));
    CHECK(report.passed());
    CHECK(report.n_skipped() == 3);  // The other element types.
  }
}

TEST_CASE_TEMPLATE("a product without rows or columns is nothing, also among several", B, exact,
                   fast, half) {
  using T = typename B::element;
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(backends::to_string(isa));
    B be({.n_threads = 2, .isa = isa});
    const std::vector<float> memory(64, 1.0F);
    const auto weight = [&](index_t rows, index_t cols) {
      return be.pack({"w", weight_type::f32, rows, cols, std::as_bytes(std::span(memory))});
    };
    const std::vector<T> x(8, T(1.0F));
    std::vector<T> y(6, T(7.0F));
    const auto none = weight(0, 4);
    const auto some = weight(3, 4);
    const matrix_view<const T> from(x.data(), {2, 4});
    const linear_output<B, T> outputs[] = {{{nullptr, {2, 0}}, &none}, {{y.data(), {2, 3}}, &some}};
    ops::linears<B, T>(be, outputs, from);
    for (const T& sum : y) CHECK(static_cast<float>(sum) == 4.0F);
    ops::linears<B, T>(be, std::span(outputs).first(1), from);
    be.linear({nullptr, {0, 3}}, {x.data(), {0, 4}}, some);
  }
}

/// Fails where the table would be filled, once.
struct failing_once {
  bool failed = false;
  template <class F>
  void for_rows(index_t n, index_t, F&& f) {
    if (!std::exchange(failed, true)) throw std::bad_alloc();
    for (index_t i = 0; i < n; ++i) f(i);
  }
};

TEST_CASE("a table of rotations that could not be filled is filled by the next call") {
  const std::int32_t position = 3;
  const float frequency = 0.5F;
  backends::onednn_detail::rotation rotate;
  failing_once be;
  const auto update = [&] { rotate.update({&position, {1}}, {&frequency, {1}}, 1.0, be); };
  CHECK_THROWS_AS(update(), std::bad_alloc);
  update();
  CHECK(rotate.cosine(0)[0] == doctest::Approx(std::cos(1.5)));
  CHECK(rotate.sine(0)[0] == doctest::Approx(std::sin(1.5)));
}

TEST_CASE("a fault in onednn is seen") {
  using enum conformance::fault;
  for (const auto fault :
       {linear_drops_last_column, norm_ignores_eps, scatter_rows_writes_past_the_end}) {
    CAPTURE(static_cast<int>(fault));
    conformance::broken<exact> be(fault, backends::onednn_options{.n_threads = 1});
    conformance::report report;
    conformance::run(be, report, {.model_shapes = false});
    CHECK_FALSE(report.passed());
  }
}

/// Tiles, splits of the keys and threads that no case of the suite is large enough for, from caches
/// of KV.
template <class B, class KV>
void compare_with_composed(B& be, index_t n_q, float budget) {
  using T = typename B::element;
  constexpr index_t n_kv_heads = 2, n_heads = 6, head_dim = 64;
  constexpr index_t n_shared = 300, n_own = 157, n_past = 40;
  const index_t n_local = n_past + n_q;
  const index_t n_keys = n_shared + n_own + n_local;
  random_generator random(7);
  const auto numbers = [&](index_t n) {
    std::vector<bf16> x;
    for (index_t i = 0; i < n; ++i) x.push_back(bf16(static_cast<float>(random.normal())));
    return x;
  };
  const auto stored = [&]<class U>(const std::vector<bf16>& x, U) {
    std::vector<U> values;
    for (const bf16 e : x) values.push_back(U(static_cast<float>(e)));
    return buffer<U, B>(be, std::span<const U>(values));
  };
  const auto q = stored(numbers(n_q * n_heads * head_dim), T{});
  const auto keys = numbers(n_kv_heads * n_keys * head_dim);
  const auto values = numbers(n_kv_heads * n_keys * head_dim);
  std::vector<visible_spans> spans;
  for (index_t i = 0; i < n_q; ++i) {
    const index_t anchors = n_q == 1 ? n_shared + n_own : (n_shared + n_own) * i / n_q;
    spans.push_back({static_cast<std::int32_t>(anchors), static_cast<std::int32_t>(i / 2),
                     static_cast<std::int32_t>(n_past + i + 1)});
  }
  const span_list list{spans, spans.data()};
  const auto attend = [&]<class U>(U, bool native) {
    const auto k = stored(keys, U{});
    const auto v = stored(values, U{});
    const auto part = [&](index_t begin, index_t rows) {
      const auto view = [&](const buffer<U, B>& x) {
        return tensor_view<const U, 3>(x.data() + n_kv_heads * begin * head_dim,
                                       {n_kv_heads, rows, head_dim});
      };
      return kv_span<U, host_space>{view(k), view(v)};
    };
    const kv_spans<U, host_space> kv{part(0, n_shared), part(n_shared, n_own),
                                     part(n_shared + n_own, n_local)};
    buffer<T, B> o(be, n_q * n_heads * head_dim);
    const auto out = o.view({n_q, n_heads, head_dim});
    const auto in = q.view({n_q, n_heads, head_dim});
    if (native) {
      be.attention(out, in, kv, list, 0.125, {});
    } else if constexpr (std::same_as<T, U>) {
      workspace<B> scratch(
          be, composed::attention_workspace_size<B, T>(n_q, n_heads, n_kv_heads, n_keys));
      composed::attention<B, T>(be, out, in, kv, list, 0.125, scratch, {});
    }
    return o.to_host();
  };
  const auto fused = attend(KV{}, true);
  const auto want = attend(T{}, false);
  float worst = 0.0F, largest = 0.0F;
  for (std::size_t i = 0; i < fused.size(); ++i) {
    const auto w = static_cast<float>(want[i]);
    worst = std::max(worst, std::abs(static_cast<float>(fused[i]) - w));
    largest = std::max(largest, std::abs(w));
  }
  CHECK(largest > 0.2F);
  CHECK(worst < budget);
}

TEST_CASE_TEMPLATE("native attention equals the composed one", B, exact, fast, half) {
  // Weights are rounded to factors, scores in the composition to elements; values are around 1.
  const float budget = std::same_as<B, exact> ? 3e-6F : std::same_as<B, fast> ? 0.01F : 0.03F;
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(backends::to_string(isa));
    B be({.n_threads = 3, .isa = isa});
    for (const index_t n_q : {1, 3, 333}) {
      CAPTURE(n_q);
      compare_with_composed<B, float>(be, n_q, budget);
      compare_with_composed<B, bf16>(be, n_q, budget);
      compare_with_composed<B, f16>(be, n_q, budget);
    }
  }
}

/// More row counts than products are kept for; `n_before` products of other weights let the limit
/// be met at any place within a call.
TEST_CASE_TEMPLATE("products of any number of rows, one after the other", B, exact, fast) {
  constexpr index_t d_in = 4, d_out = 160, most_rows = 700;
  const std::vector<float> ones(static_cast<std::size_t>(most_rows * d_out), 1.0F);
  for (index_t n_before = 0; n_before < 4; ++n_before) {
    CAPTURE(n_before);
    B be({.n_threads = 2});
    const auto packed = [&](index_t rows) {
      const auto values = std::span(ones).first(static_cast<std::size_t>(rows * d_in));
      return be.pack({"w", weight_type::f32, rows, d_in, std::as_bytes(values)});
    };
    const auto w = packed(d_out);
    const buffer<float, B> x(be, std::span(ones).first(most_rows * d_in));
    buffer<float, B> o(be, most_rows * d_out);
    for (index_t i = 1; i <= n_before; ++i) {
      be.linear(o.view({1, i}), x.view({1, d_in}), packed(i));
    }
    for (index_t n = 1; n <= most_rows; ++n) {
      CAPTURE(n);
      o.view({n, d_out})(n - 1, d_out - 1) = 0.0F;
      REQUIRE_NOTHROW(be.linear(o.view({n, d_out}), x.view({n, d_in}), w));
      REQUIRE(o.view({n, d_out})(n - 1, d_out - 1) == 4.0F);
    }
  }
}

TEST_CASE("an instruction set that the CPU lacks is refused") {
  const auto best = static_cast<int>(backends::best_instruction_set());
  for (int i = best + 1; i <= static_cast<int>(instruction_set::amx); ++i) {
    const auto isa = static_cast<instruction_set>(i);
    CHECK_THROWS_WITH_AS(exact({.isa = isa}),
                         ("onednn: this CPU has " +
                          std::string(backends::to_string(backends::best_instruction_set())) +
                          " at most, " + std::string(backends::to_string(isa)) + " was asked for")
                             .c_str(),
                         argument_error);
  }
}

TEST_CASE_TEMPLATE("a weight with too few bytes is refused", B, exact, fast, half) {
  for (const instruction_set isa : instruction_sets()) {
    B be({.isa = isa});
    for (const weight_type type : {weight_type::f32, weight_type::bf16, weight_type::q8_0,
                                   weight_type::q4_1, weight_type::q6_k}) {
      const std::size_t need = row_bytes(type, 256) * 3;
      const std::vector<std::byte> enough(need);
      CHECK(be.pack({"w", type, 3, 256, enough}).rows() == 3);
      CHECK_THROWS_WITH_AS(be.pack({"w", type, 3, 256, std::span(enough).first(need - 1)}),
                           ("pack: 'w' holds " + std::to_string(need - 1) +
                            " bytes, expected 3 x " + std::to_string(need / 3))
                               .c_str(),
                           shape_error);
      // Whose number of bytes is 0 in 64 bits.
      const index_t n = (std::numeric_limits<index_t>::max() >> 1) + 1;
      CHECK_THROWS_AS(be.pack({"w", type, n, 256, {}}), shape_error);
      CHECK_THROWS_AS(be.pack({"w", type, -1, 256, enough}), shape_error);
    }
  }
}

TEST_CASE("keys are cut into no more parts than they have blocks, and where that allows, evenly") {
  using backends::onednn_detail::key_block;
  using backends::onednn_detail::splits_of_keys;
  for (index_t n_threads = 1; n_threads <= 128; ++n_threads) {
    for (const index_t n_items : {1, 2, 3, 8, 300}) {
      for (const index_t n_keys : {0, 1, 300, 512, 1024, 8000, 100000}) {
        CAPTURE(n_threads);
        CAPTURE(n_items);
        CAPTURE(n_keys);
        const index_t n = splits_of_keys(n_threads, n_items, n_keys);
        CHECK(n >= 1);
        CHECK(n <= std::max<index_t>(1, n_keys / key_block));
        if (n_threads == 1 || n_keys < 2 * key_block) CHECK(n == 1);
        const bool is_even = n * n_items % n_threads == 0;
        CHECK((is_even || n == 1 || n == n_keys / key_block));
        // One thread's share of all but few keys of one sequence.
        if (n_items == 1 && n_keys == 100000) CHECK(n >= std::min<index_t>(n_threads, 390));
      }
    }
  }
}

}  // namespace
}  // namespace gistkv
