// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstddef>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/attention_backward.hpp>

/// Attention of several sequences in one call, composed and by a backend's own paths: what each
/// sequence gives by itself, to the bit.

namespace gistkv::test {

namespace {

using oracle = backends::eigen<double>;

/// Has paths for batches, which count their calls; an error on demand.
struct batching : oracle {
  static constexpr bool native_attention_batch = true;
  static constexpr bool native_attention_backward = true;
  static constexpr bool native_attention_backward_batch = true;
  int forward_calls = 0, backward_calls = 0;
  bool last_forgotten = false;

  void attention_batch(std::span<const attention_call<double, host_space>> calls, double scale) {
    ++forward_calls;
    for (const auto& c : calls.first(calls.size() - (last_forgotten ? 1 : 0))) {
      workspace<batching> scratch(*this, 1 << 20);
      composed::attention<batching, double, double>(*this, c.o, c.q, c.kv, c.spans, scale, scratch,
                                                    c.lse);
    }
  }
  template <class... Arguments>
  void attention_backward(const Arguments&...) {
    FAIL("one sequence at a time");
  }
  void attention_backward_batch(std::span<const attention_derivative<double, host_space>> calls,
                                double scale) {
    ++backward_calls;
    for (const auto& c : calls.first(calls.size() - (last_forgotten ? 1 : 0))) {
      workspace<batching> scratch(*this, 1 << 20);
      composed::attention_backward<batching, double>(*this, c.dq, c.d_own, c.d_local, c.d_o, c.q,
                                                     c.kv, c.spans, scale, scratch);
    }
  }
};

constexpr index_t n_heads = 4, n_kv = 2, d = 3;
constexpr double scale = 0.6;

/// One sequence with all that belongs to it.
struct text {
  using view = tensor_view<double, 3>;
  index_t n, n_anchors = 0;
  std::vector<visible_spans> spans;
  std::vector<double> q, o, lse, k, v, ak, av, d_o, dq, dk, dv, dak, dav;

  text(index_t length, std::uint64_t seed) : n(length) {
    std::vector<std::uint8_t> gists;
    for (index_t i = 0; i < n; ++i) gists.push_back(i % 9 > 6 ? 1 : 0);
    const sentence_structure structure(gists, {2, 1, 1});
    for (index_t i = 0; i < n; ++i) spans.push_back(structure.spans(i));
    n_anchors = static_cast<index_t>(structure.anchors().size());
    random_generator random(seed);
    const auto draw = [&](std::vector<double>& x, index_t rows) {
      for (index_t i = 0; i < rows * d; ++i) x.push_back(random.normal());
    };
    for (auto* x : {&q, &d_o, &o, &dq}) draw(*x, n * n_heads);
    for (auto* x : {&k, &v, &dk, &dv}) draw(*x, n * n_kv);
    for (auto* x : {&ak, &av, &dak, &dav}) draw(*x, n_anchors * n_kv);
    lse.resize(static_cast<std::size_t>(n * n_heads));
  }
  view heads(std::vector<double>& x) { return {x.data(), {n, n_heads, d}}; }
  view local(std::vector<double>& x) { return {x.data(), {n_kv, n, d}}; }
  view own(std::vector<double>& x) { return {x.data(), {n_kv, n_anchors, d}}; }
  kv_spans<double, host_space> kv() { return {{}, {own(ak), own(av)}, {local(k), local(v)}}; }

  attention_call<double, host_space> forward() {
    return {heads(o), heads(q), kv(), {spans, spans.data()}, {lse.data(), {n, n_heads}}};
  }
  attention_derivative<double, host_space> backward() {
    return {heads(dq),
            {own(dak), own(dav)},
            {local(dk), local(dv)},
            heads(d_o),
            heads(q),
            heads(o),
            {lse.data(), {n, n_heads}},
            kv(),
            {spans, spans.data()}};
  }
  bool operator==(const text& other) const {
    return o == other.o && lse == other.lse && dq == other.dq && dk == other.dk && dv == other.dv &&
           dak == other.dak && dav == other.dav;
  }
};

std::vector<text> texts() { return {text(70, 1), text(9, 2), text(1, 3), text(40, 4)}; }

template <class B>
std::vector<text> run_batch(B& be) {
  workspace<B> scratch(be, 1 << 20);
  std::vector<text> all = texts();
  std::vector<attention_call<double, host_space>> forward;
  std::vector<attention_derivative<double, host_space>> backward;
  for (text& t : all) {
    forward.push_back(t.forward());
    backward.push_back(t.backward());
  }
  ops::attention_batch<B, double>(be, forward, scale, scratch);
  ops::attention_backward_batch<B, double>(be, backward, scale, scratch);
  return all;
}

TEST_CASE("attention_batch and attention_backward_batch") {
  oracle plain(1);
  batching native, wrong;
  wrong.last_forgotten = true;
  std::vector<text> want = texts();
  workspace<oracle> scratch(plain, 1 << 20);
  for (text& t : want) {
    const auto f = t.forward();
    ops::attention<oracle, double>(plain, f.o, f.q, f.kv, f.spans, scale, scratch, f.lse);
    const auto b = t.backward();
    ops::attention_backward<oracle, double>(plain, b.dq, b.d_own, b.d_local, b.d_o, b.q, b.o, b.lse,
                                            b.kv, b.spans, scale, scratch);
  }
  CHECK(run_batch(plain) == want);
  CHECK(run_batch(native) == want);
  CHECK(native.forward_calls == 1);
  CHECK(native.backward_calls == 1);
  CHECK(run_batch(wrong) != want);
}

TEST_CASE("sequences of a batch have the same heads") {
  batching be;
  workspace<batching> scratch(be, 1 << 10);
  std::vector<text> all = texts();
  std::vector<attention_call<double, host_space>> calls{all[0].forward(), all[1].forward()};
  const auto run = [&] { ops::attention_batch<batching, double>(be, calls, scale, scratch); };
  calls[1].o = calls[1].o.slice(1, 0, 2);
  calls[1].q = calls[1].q.slice(1, 0, 2);
  calls[1].lse = {};
  CHECK_THROWS_WITH_AS(run(), "attention_batch: q is [9, 2, 3], expected [9, 4, 3]", shape_error);
  calls[1] = all[1].forward();
  calls[1].spans.host = calls[1].spans.host.first(8);
  CHECK_THROWS_WITH_AS(run(), "attention: spans has 8 entries, expected 9", shape_error);
  CHECK(be.forward_calls == 0);
}

}  // namespace

}  // namespace gistkv::test
