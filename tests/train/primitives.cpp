// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cmath>
#include <cstddef>
#include <functional>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/attention_backward.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/clear.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>

/// Derivatives of every primitive against central differences, in double.

namespace gistkv::test {

namespace {

using oracle = backends::eigen<double>;
using numbers = std::vector<double>;

oracle& be() {
  static oracle b;
  return b;
}

numbers drawn(std::size_t n, std::uint64_t seed, double scale = 1.0) {
  random_generator random(seed);
  numbers x;
  for (std::size_t i = 0; i < n; ++i) x.push_back(scale * random.normal());
  return x;
}

double dot(const numbers& a, const numbers& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Compares d with the central differences of f() with respect to each element of x.
void check_derivative(numbers& x, const numbers& d, const std::function<double()>& f) {
  REQUIRE(x.size() == d.size());
  double norm = 0;
  for (const double v : d) norm = std::max(norm, std::abs(v));
  REQUIRE(norm > 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double before = x[i];
    constexpr double h = 1e-5;
    x[i] = before + h;
    const double high = f();
    x[i] = before - h;
    const double low = f();
    x[i] = before;
    CAPTURE(i);
    CHECK(std::abs((high - low) / (2 * h) - d[i]) <= 1e-7 * std::max(1.0, norm));
  }
}

matrix_view<double> matrix(numbers& x, index_t rows, index_t cols) {
  return {x.data(), {rows, cols}};
}

}  // namespace

TEST_CASE("norm_backward") {
  constexpr index_t n = 3;
  constexpr index_t d = 7;
  for (const norm_kind kind : {norm_kind::rms, norm_kind::layer}) {
    numbers x = drawn(n * d, 1);
    numbers w = drawn(d, 2);
    const numbers dy = drawn(n * d, 3);
    numbers y(n * d);
    const norm_options options{kind, 1e-3};
    const auto loss = [&] {
      ops::norm<oracle, double>(be(), matrix(y, n, d), matrix(x, n, d),
                                vector_view<const double>(w.data(), {d}), {}, options);
      return dot(y, dy);
    };
    numbers dx(n * d, 0.25);
    numbers dw(d, 0.5);
    numbers copy = dy;
    ops::norm_backward<oracle, double>(be(), matrix(dx, n, d), {dw.data(), {d}}, matrix(copy, n, d),
                                       matrix(x, n, d), vector_view<const double>(w.data(), {d}),
                                       options);
    for (double& v : dx) v -= 0.25;  // It adds to what is there.
    for (double& v : dw) v -= 0.5;
    check_derivative(x, dx, loss);
    check_derivative(w, dw, loss);
  }
}

TEST_CASE("activation_backward") {
  constexpr index_t n = 2;
  constexpr index_t d = 9;
  for (const auto kind :
       {activation_kind::silu, activation_kind::gelu, activation_kind::gelu_tanh}) {
    for (const bool gated : {true, false}) {
      numbers gate = drawn(n * d, 1, 2.0);
      numbers up = drawn(n * d, 2);
      numbers dy = drawn(n * d, 3);
      numbers y(n * d);
      const auto factor = [&] { return gated ? matrix(up, n, d) : matrix_view<double>{}; };
      const auto loss = [&] {
        ops::activation<oracle, double>(be(), matrix(y, n, d), matrix(gate, n, d), factor(), kind);
        return dot(y, dy);
      };
      numbers d_gate(n * d);
      numbers d_up(n * d);
      ops::activation_backward<oracle, double>(
          be(), matrix(d_gate, n, d), gated ? matrix(d_up, n, d) : matrix_view<double>{},
          matrix(dy, n, d), matrix(gate, n, d), factor(), kind);
      check_derivative(gate, d_gate, loss);
      if (gated) check_derivative(up, d_up, loss);
    }
  }
}

TEST_CASE("softmax_backward") {
  constexpr index_t n_q = 3;
  constexpr index_t n_k = 5;
  constexpr double scale = 0.7;
  struct seen {
    bool operator()(index_t q, index_t k) const { return k <= q + 1; }
  };
  numbers s = drawn(2 * n_q * n_k, 1);
  const numbers dy = drawn(s.size(), 2);
  const auto probabilities = [&] {
    numbers p = s;
    ops::masked_softmax<oracle, double>(be(), {p.data(), {2, n_q, n_k}}, seen{}, {.scale = scale});
    return p;
  };
  const auto loss = [&] { return dot(probabilities(), dy); };
  const numbers p = probabilities();
  numbers ds = dy;
  ops::softmax_backward<oracle, double>(be(), {ds.data(), {2, n_q, n_k}},
                                        tensor_view<const double, 3>(p.data(), {2, n_q, n_k}),
                                        scale);
  check_derivative(s, ds, loss);
}

TEST_CASE("the opposite angle is the derivative of rope") {
  constexpr index_t n = 4;
  numbers x = drawn(n * 2 * 6, 1);
  numbers dy = drawn(x.size(), 2);
  const std::vector<std::int32_t> positions = {0, 3, 17, 1000};
  const std::vector<float> f = {1.0F, 0.25F, 0.01F};
  const std::vector<float> negated = {-1.0F, -0.25F, -0.01F};
  const auto turn = [&](numbers& v, const std::vector<float>& by) {
    ops::rope<oracle, double>(be(), {v.data(), {n, 2, 6}},
                              vector_view<const std::int32_t>(positions.data(), {n}),
                              vector_view<const float>(by.data(), {3}), {1.5});
  };
  const auto loss = [&] {
    numbers y = x;
    turn(y, f);
    return dot(y, dy);
  };
  numbers dx = dy;
  turn(dx, negated);
  check_derivative(x, dx, loss);
}

TEST_CASE("cross_entropy") {
  constexpr index_t n = 3;
  constexpr index_t n_vocab = 11;
  const std::vector<std::int32_t> targets = {4, 0, 10};
  const numbers weights = {0.5, 1.0, 0.25};
  numbers teacher = drawn(n * n_vocab, 7);
  for (index_t i = 0; i < n; ++i) {
    double sum = 0;
    for (index_t j = 0; j < n_vocab; ++j) {
      double& p = teacher[static_cast<std::size_t>(i * n_vocab + j)];
      p = j == 2 ? 0.0 : std::exp(p);  // A token that the teacher excludes.
      sum += p;
    }
    for (index_t j = 0; j < n_vocab; ++j) teacher[static_cast<std::size_t>(i * n_vocab + j)] /= sum;
  }
  for (const double mix : {0.0, 0.4, 1.0}) {
    numbers x = drawn(n * n_vocab, 1, 3.0);
    numbers d;
    const auto loss = [&] {
      d = x;
      numbers losses(n);
      ops::cross_entropy<oracle, double>(
          be(), matrix(d, n, n_vocab), {losses.data(), {n}},
          vector_view<const std::int32_t>(targets.data(), {n}),
          vector_view<const double>(weights.data(), {n}),
          mix > 0 ? matrix_view<const double>(teacher.data(), {n, n_vocab})
                  : matrix_view<const double>{},
          mix);
      return losses[0] + losses[1] + losses[2];
    };
    // By the definition.
    double want = 0;
    for (std::size_t i = 0; i < n; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < n_vocab; ++j) sum += std::exp(x[i * n_vocab + j]);
      const double lse = std::log(sum);
      double hard = lse - x[i * n_vocab + static_cast<std::size_t>(targets[i])];
      double soft = 0;
      for (std::size_t j = 0; j < n_vocab; ++j) {
        const double q = teacher[i * n_vocab + j];
        if (q > 0) soft += q * (std::log(q) - x[i * n_vocab + j] + lse);
      }
      want += weights[i] * ((1 - mix) * hard + mix * soft);
    }
    CHECK(std::abs(loss() - want) <= 1e-12);
    const numbers found = d;
    check_derivative(x, found, loss);
  }
}

TEST_CASE("accumulate_products, scatter_add_rows, dropout, squared_norm") {
  numbers a = drawn(5 * 3, 1);
  numbers b = drawn(5 * 67, 2);
  numbers o(3 * 67, 1.0);
  ops::accumulate_products<oracle, double>(be(), matrix(o, 3, 67), matrix(a, 5, 3),
                                           matrix(b, 5, 67), 0.5);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 67; ++j) {
      double want = 1.0;
      for (std::size_t t = 0; t < 5; ++t) want += 0.5 * a[t * 3 + i] * b[t * 67 + j];
      CHECK(std::abs(o[i * 67 + j] - want) <= 1e-12);
    }
  }
  const std::vector<std::int32_t> rows = {1, -1, 1, 0};
  numbers x = drawn(4 * 3, 3);
  numbers to(2 * 3, 0.0);
  ops::scatter_add_rows<oracle, double>(be(), matrix(to, 2, 3), matrix(x, 4, 3),
                                        vector_view<const std::int32_t>(rows.data(), {4}));
  for (std::size_t j = 0; j < 3; ++j) {
    CHECK(to[j] == x[9 + j]);
    CHECK(to[3 + j] == x[j] + x[6 + j]);
  }

  numbers ones(100 * 50, 1.0);
  numbers kept(ones.size());
  numbers again(ones.size());
  const dropout_options options{0.3, 99};
  ops::dropout<oracle, double>(be(), matrix(kept, 100, 50), matrix(ones, 100, 50), options);
  ops::dropout<oracle, double>(be(), matrix(again, 100, 50), matrix(ones, 100, 50), options);
  CHECK(kept == again);
  index_t zeros = 0;
  for (const double v : kept) {
    if (v == 0.0) {
      ++zeros;
    } else {
      CHECK(v == 1.0 / 0.7);
    }
  }
  CHECK(std::abs(static_cast<double>(zeros) - 1500) < 150);  // Four standard deviations.
  CHECK_THROWS_AS(
      (ops::dropout<oracle, double>(be(), matrix(kept, 100, 50), matrix(ones, 100, 50), {1.0, 1})),
      argument_error);

  CHECK(
      std::abs(ops::squared_norm<oracle, double>(be(), vector_view<const double>(x.data(), {12})) -
               dot(x, x)) <= 1e-12);
}

TEST_CASE("clear: what was named, and no more") {
  numbers x(12, 1.0);
  ops::clear<oracle, double>(be(), matrix_view<double>(x.data(), {3, 2}, {4, 1}));
  CHECK(x == numbers{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1});
  ops::clear(be(), vector_view<double>(x.data() + 2, {5}));
  CHECK(x == numbers{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1});
  ops::clear<oracle, double>(be(), matrix_view<double>(x.data(), {6, 2}));
  CHECK(x == numbers(12, 0.0));
}

TEST_CASE("adamw by its definition") {
  numbers p = {1.0, -2.0};
  numbers m = {0.1, 0.2};
  numbers v = {0.3, 0.4};
  const numbers g = {0.5, -1.5};
  const adamw_options o{0.01, 0.9, 0.95, 1e-8, 0.1, 0.5, 3};
  numbers want = p;
  for (std::size_t i = 0; i < 2; ++i) {
    const double scaled = 0.5 * g[i];
    const double first = 0.9 * m[i] + 0.1 * scaled;
    const double second = 0.95 * v[i] + 0.05 * scaled * scaled;
    want[i] -= 0.01 * 0.1 * p[i];
    want[i] -= 0.01 * (first / (1 - std::pow(0.9, 3))) /
               (std::sqrt(second / (1 - std::pow(0.95, 3))) + 1e-8);
  }
  ops::adamw<oracle, double>(be(), {p.data(), {2}}, vector_view<const double>(g.data(), {2}),
                             {m.data(), {2}}, {v.data(), {2}}, o);
  for (std::size_t i = 0; i < 2; ++i) CHECK(std::abs(p[i] - want[i]) <= 1e-14);
}

TEST_CASE("attention_backward on two spans") {
  constexpr index_t n = 70;  // More than one tile.
  constexpr index_t n_heads = 4;
  constexpr index_t n_kv = 2;
  constexpr index_t d = 3;
  std::vector<std::uint8_t> gists(n, 0);
  for (const index_t i : {9, 10, 30, 31, 50, 51}) gists[static_cast<std::size_t>(i)] = 1;
  const sentence_structure structure(gists, {2, 1, 1});
  std::vector<visible_spans> spans;
  for (index_t i = 0; i < n; ++i) spans.push_back(structure.spans(i));
  const auto anchors = structure.anchors();
  const auto n_anchors = static_cast<index_t>(anchors.size());
  numbers q = drawn(n * n_heads * d, 1);
  numbers k = drawn(n_kv * n * d, 2);
  numbers v = drawn(n_kv * n * d, 3);
  numbers ak = drawn(static_cast<std::size_t>(n_kv * n_anchors * d), 4);
  numbers av = drawn(ak.size(), 5);
  numbers d_o = drawn(q.size(), 6);
  numbers o(q.size());
  numbers lse(n * n_heads);
  constexpr double scale = 0.6;
  workspace<oracle> scratch(be(), 1 << 20);
  using view = tensor_view<double, 3>;
  const auto kv = [&] {
    return kv_spans<double, host_space>{
        {},
        {view(ak.data(), {n_kv, n_anchors, d}), view(av.data(), {n_kv, n_anchors, d})},
        {view(k.data(), {n_kv, n, d}), view(v.data(), {n_kv, n, d})}};
  };
  const span_list list{spans, spans.data()};
  const view result(o.data(), {n, n_heads, d});
  const view queries(q.data(), {n, n_heads, d});
  const auto loss = [&] {
    ops::attention<oracle, double>(be(), result, queries, kv(), list, scale, scratch,
                                   {lse.data(), {n, n_heads}});
    return dot(o, d_o);
  };
  loss();
  numbers dq(q.size());
  numbers dk(k.size(), 0.0);
  numbers dv(v.size(), 0.0);
  numbers dak(ak.size(), 0.0);
  numbers dav(av.size(), 0.0);
  ops::attention_backward<oracle, double>(
      be(), {dq.data(), {n, n_heads, d}},
      {{dak.data(), {n_kv, n_anchors, d}}, {dav.data(), {n_kv, n_anchors, d}}},
      {{dk.data(), {n_kv, n, d}}, {dv.data(), {n_kv, n, d}}}, view(d_o.data(), {n, n_heads, d}),
      queries, result, {lse.data(), {n, n_heads}}, kv(), list, scale, scratch);
  check_derivative(q, dq, loss);
  check_derivative(k, dk, loss);
  check_derivative(v, dv, loss);
  check_derivative(ak, dak, loss);
  check_derivative(av, dav, loss);
}

}  // namespace gistkv::test
