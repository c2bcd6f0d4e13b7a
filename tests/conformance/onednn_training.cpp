// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/backends/onednn.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/attention_backward.hpp>
#include <gistkv/ops/backward.hpp>

#include "support/instruction_sets.hpp"

/// The training primitives of the onednn backend against the oracle in double, on every instruction
/// set that this CPU has; and what must not change with the number of threads.

namespace gistkv::test {

namespace {

using backends::instruction_set;
using fast = backends::onednn<float>;
using oracle = backends::eigen<double>;

template <class T>
std::vector<T> drawn(index_t n, std::uint64_t seed, double scale = 1.0) {
  random_generator random(seed);
  std::vector<T> x;
  // In float first: both backends get the same numbers.
  for (index_t i = 0; i < n; ++i) {
    x.push_back(static_cast<T>(static_cast<float>(scale * random.normal())));
  }
  return x;
}

/// Largest difference over the largest entry of `want`, which must not be 0.
double error_of(const std::vector<float>& found, const std::vector<double>& want) {
  REQUIRE(found.size() == want.size());
  double most = 0;
  double error = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    most = std::max(most, std::abs(want[i]));
    error = std::max(error, std::abs(static_cast<double>(found[i]) - want[i]));
  }
  REQUIRE(most > 0);
  return error / most;
}

const std::vector<index_t> widths = {1, 2, 15, 16, 17, 33, 63, 64, 65, 131};

template <class B, class T>
std::vector<T> products(B& be, index_t k, index_t m, index_t n) {
  const auto a = drawn<T>(k * m, 1);
  const auto b = drawn<T>(k * n, 2);
  std::vector<T> o(static_cast<std::size_t>(m * n), T(0.5));
  ops::accumulate_products<B, T>(be, {o.data(), {m, n}}, matrix_view<const T>(a.data(), {k, m}),
                                 matrix_view<const T>(b.data(), {k, n}), 0.75);
  return o;
}

template <class B, class T>
std::vector<T> norms(B& be, index_t n, index_t d, norm_kind kind, bool weight) {
  const auto x = drawn<T>(n * d, 1);
  const auto dy = drawn<T>(n * d, 2);
  const auto w = drawn<T>(d, 3);
  std::vector<T> dx(static_cast<std::size_t>(n * d), T(0.25));
  std::vector<T> dw(static_cast<std::size_t>(d), T(0.125));
  ops::norm_backward<B, T>(
      be, {dx.data(), {n, d}}, weight ? vector_view<T>(dw.data(), {d}) : vector_view<T>{},
      matrix_view<const T>(dy.data(), {n, d}), matrix_view<const T>(x.data(), {n, d}),
      vector_view<const T>(w.data(), {d}), {kind, 1e-3});
  dx.insert(dx.end(), dw.begin(), dw.end());
  return dx;
}

template <class B, class T>
std::vector<T> activations(B& be, index_t n, index_t d, bool gated) {
  const auto gate = drawn<T>(n * d, 1, 4.0);
  const auto up = drawn<T>(n * d, 2);
  const auto dy = drawn<T>(n * d, 3);
  std::vector<T> both(static_cast<std::size_t>(2 * n * d), T(0));
  const matrix_view<T> d_gate(both.data(), {n, d});
  const matrix_view<T> d_up(both.data() + n * d, {n, d});
  ops::activation_backward<B, T>(
      be, d_gate, gated ? d_up : matrix_view<T>{}, matrix_view<const T>(dy.data(), {n, d}),
      matrix_view<const T>(gate.data(), {n, d}),
      gated ? matrix_view<const T>(up.data(), {n, d}) : matrix_view<const T>{},
      activation_kind::silu);
  return both;
}

template <class B, class T>
std::vector<T> entropies(B& be, index_t n, index_t n_vocab) {
  auto x = drawn<T>(n * n_vocab, 1, 5.0);
  const auto weights = drawn<T>(n, 2);
  std::vector<std::int32_t> targets;
  for (index_t i = 0; i < n; ++i) targets.push_back(static_cast<std::int32_t>(i * 7 % n_vocab));
  std::vector<T> losses(static_cast<std::size_t>(n));
  ops::cross_entropy<B, T>(be, {x.data(), {n, n_vocab}}, {losses.data(), {n}},
                           vector_view<const std::int32_t>(targets.data(), {n}),
                           vector_view<const T>(weights.data(), {n}));
  x.insert(x.end(), losses.begin(), losses.end());
  return x;
}

struct attention_case {
  index_t n;
  index_t n_kv;
  index_t group;
  index_t d;
  sentence_rule rule;
  index_t sentence;  ///< Regular rows of a sentence.
  double query = 1;  ///< Size of the queries: of the scores.
};

/// dq, dk, dv and those of the anchors, one behind the other. The forward pass, whose last bits may
/// depend on the number of threads, is `forward`'s.
template <class B, class T>
std::vector<T> attention(B& forward, B& be, const attention_case& c) {
  std::vector<std::uint8_t> gists;
  for (index_t i = 0; i < c.n; ++i) {
    gists.push_back(i % (c.sentence + c.rule.n_gist) >= c.sentence ? 1 : 0);
  }
  const sentence_structure structure(gists, c.rule);
  std::vector<visible_spans> spans;
  for (index_t i = 0; i < c.n; ++i) spans.push_back(structure.spans(i));
  const auto n_anchors = static_cast<index_t>(structure.anchors().size());
  const index_t n_heads = c.n_kv * c.group;
  const auto q = drawn<T>(c.n * n_heads * c.d, 1, c.query);
  const auto k = drawn<T>(c.n_kv * c.n * c.d, 2);
  const auto v = drawn<T>(c.n_kv * c.n * c.d, 3);
  const auto ak = drawn<T>(c.n_kv * n_anchors * c.d, 4);
  const auto av = drawn<T>(c.n_kv * n_anchors * c.d, 5);
  const auto d_o = drawn<T>(c.n * n_heads * c.d, 6);
  using view = tensor_view<const T, 3>;
  kv_spans<T, host_space> kv;
  kv.local = {view(k.data(), {c.n_kv, c.n, c.d}), view(v.data(), {c.n_kv, c.n, c.d})};
  if (n_anchors > 0) {
    kv.own = {view(ak.data(), {c.n_kv, n_anchors, c.d}), view(av.data(), {c.n_kv, n_anchors, c.d})};
  }
  std::vector<T> o(q.size());
  std::vector<T> lse(static_cast<std::size_t>(c.n * n_heads));
  workspace<B> scratch(be, std::size_t{64} << 20);
  const span_list list{spans, spans.data()};
  const view queries(q.data(), {c.n, n_heads, c.d});
  ops::attention<B, T>(forward, {o.data(), {c.n, n_heads, c.d}}, queries, kv, list, 0.3, scratch,
                       {lse.data(), {c.n, n_heads}});
  std::vector<T> all(q.size() + 2 * k.size() + 2 * ak.size(), T(0));
  T* at = all.data();
  const auto take = [&at](index_t a, index_t b, index_t e) {
    const tensor_view<T, 3> x(at, {a, b, e});
    at += a * b * e;
    return x;
  };
  const auto dq = take(c.n, n_heads, c.d);
  const kv_gradient<T, host_space> local{take(c.n_kv, c.n, c.d), take(c.n_kv, c.n, c.d)};
  const kv_gradient<T, host_space> own{take(c.n_kv, n_anchors, c.d), take(c.n_kv, n_anchors, c.d)};
  ops::attention_backward<B, T>(be, dq, own, local, view(d_o.data(), {c.n, n_heads, c.d}), queries,
                                view(o.data(), {c.n, n_heads, c.d}),
                                matrix_view<const T>(lse.data(), {c.n, n_heads}), kv, list, 0.3,
                                scratch);
  return all;
}

std::vector<attention_case> attention_cases() {
  return {{1, 1, 1, 4, {2, 0, 0}, 3},      {7, 1, 2, 16, {2, 0, 1}, 3},
          {33, 2, 3, 64, {4, 0, 1}, 9},    {170, 3, 3, 64, {4, 2, 1}, 20},
          {500, 1, 4, 40, {1, 1, 4}, 5},   {700, 2, 3, 64, {4, 4, 1}, 28},
          {350, 1, 2, 128, {4, 0, 0}, 999}};  // No sentence ever ends: causal.
}

}  // namespace

TEST_CASE("training primitives agree with the oracle") {
  oracle exact;
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(std::string(to_string(isa)));
    fast be({.n_threads = 2, .isa = isa});
    for (const index_t d : widths) {
      CAPTURE(d);
      CHECK(error_of(products<fast, float>(be, 37, 5, d),
                     products<oracle, double>(exact, 37, 5, d)) < 2e-6);
      CHECK(error_of(products<fast, float>(be, 3, d, 70),
                     products<oracle, double>(exact, 3, d, 70)) < 2e-6);
      for (const auto kind : {norm_kind::rms, norm_kind::layer}) {
        if (d == 1 && kind == norm_kind::layer) continue;  // Its derivative is 0 / 0.
        for (const bool weight : {false, true}) {
          CHECK(error_of(norms<fast, float>(be, 3, d, kind, weight),
                         norms<oracle, double>(exact, 3, d, kind, weight)) < 5e-6);
        }
      }
      for (const bool gated : {false, true}) {
        CHECK(error_of(activations<fast, float>(be, 2, d, gated),
                       activations<oracle, double>(exact, 2, d, gated)) < 2e-6);
      }
      CHECK(error_of(entropies<fast, float>(be, 4, d + 1),
                     entropies<oracle, double>(exact, 4, d + 1)) < 4e-6);
    }
    CHECK(error_of(entropies<fast, float>(be, 2, 50000),
                   entropies<oracle, double>(exact, 2, 50000)) < 1e-5);
  }
}

TEST_CASE("native attention_backward agrees with the composed one in double") {
  oracle exact;
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(std::string(to_string(isa)));
    fast be({.n_threads = 2, .isa = isa});
    for (const attention_case& c : attention_cases()) {
      CAPTURE(c.n);
      CHECK(error_of(attention<fast, float>(be, be, c),
                     attention<oracle, double>(exact, exact, c)) < 1e-5);
    }
  }
}

TEST_CASE("attention_backward bears large scores, though the forward pass rounds its factors") {
  oracle exact;
  using rounding = backends::onednn<float, bf16>;
  for (const instruction_set isa : instruction_sets()) {
    CAPTURE(std::string(to_string(isa)));
    rounding be({.n_threads = 2, .isa = isa});
    const attention_case c{170, 3, 3, 64, {4, 2, 1}, 20, 100.0};
    CHECK(error_of(attention<rounding, float>(be, be, c),
                   attention<oracle, double>(exact, exact, c)) < 1e-3);
  }
}

TEST_CASE("no derivative depends on the number of threads") {
  fast one({.n_threads = 1});
  fast three({.n_threads = 3});
  for (const attention_case& c : attention_cases()) {
    CHECK(attention<fast, float>(one, one, c) == attention<fast, float>(one, three, c));
  }
  CHECK(products<fast, float>(one, 300, 200, 131) == products<fast, float>(three, 300, 200, 131));
  CHECK(entropies<fast, float>(one, 9, 3000) == entropies<fast, float>(three, 9, 3000));
}

}  // namespace gistkv::test
