// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Wrong extents never reach a backend: the error names operation, argument and both numbers.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/attention.hpp>
#include <gistkv/ops/attention_backward.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>
#include <gistkv/ops/rows.hpp>

namespace gistkv {
namespace {

using backend = backends::eigen<float>;

/// Memory that every view of these tests fits into.
struct fixture {
  backend be{1};
  std::vector<float> memory = std::vector<float>(4096, 1.0F);
  std::vector<std::int32_t> numbers = std::vector<std::int32_t>(64, 0);

  template <class... I>
  tensor_view<float, sizeof...(I)> t(I... extents) {
    return {memory.data(), {static_cast<index_t>(extents)...}};
  }
  /// The same extents with every second element of a row: not contiguous.
  template <class... I>
  tensor_view<float, sizeof...(I)> gappy(I... extents) {
    auto strides = tensor_view<float, sizeof...(I)>(nullptr, {2 * extents...}).strides();
    strides.back() = 2;
    return {memory.data(), {static_cast<index_t>(extents)...}, strides};
  }
  vector_view<const std::int32_t> rows(index_t n) { return {numbers.data(), {n}}; }
};

template <class F>
void expect_error(F&& call, std::initializer_list<std::string> parts) {
  std::string text;
  try {
    call();
  } catch (const shape_error& e) {
    text = e.what();
  }
  CAPTURE(text);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE_FIXTURE(fixture, "linear") {
  const auto w = be.pack({"w", weight_type::f32, 5, 3, std::as_bytes(std::span(memory))});
  CHECK_NOTHROW(ops::linear(be, t(2, 5), t(2, 3), w));
  expect_error([&] { ops::linear(be, t(2, 5), t(2, 4), w); }, {"linear: x", "[2, 4]", "[2, 3]"});
  expect_error([&] { ops::linear(be, t(2, 6), t(2, 3), w); }, {"linear: o", "[2, 6]", "[2, 5]"});
  expect_error([&] { ops::linear(be, t(1, 5), t(2, 3), w); }, {"linear: o", "[1, 5]", "[2, 5]"});
  expect_error([&] { ops::linear(be, t(2, 5), gappy(2, 3), w); },
               {"linear: x", "stride of 2", "1"});
  expect_error([&] { ops::linear(be, gappy(2, 5), t(2, 3), w); },
               {"linear: o", "stride of 2", "1"});
  expect_error([&] { ops::linear(be, t(2, 5), t(2, 3), w, t(4)); }, {"add: b", "[2, 4]", "[2, 5]"});
  CHECK_NOTHROW(ops::linear(be, t(0, 5), t(0, 3), w));
}

TEST_CASE_FIXTURE(fixture, "coarse rows of linears") {
  const auto w = be.pack({"w", weight_type::f32, 5, 3, std::as_bytes(std::span(memory))});
  const linear_output<backend, float> to{t(2, 5), &w};
  const auto call = [&](row_range coarse) {
    ops::linears<backend, float>(be, {&to, 1}, t(2, 3), coarse);
  };
  for (const row_range good : {row_range{0, 0}, {0, 2}, {2, 2}}) CHECK_NOTHROW(call(good));
  for (const row_range bad : {row_range{-1, 1}, {2, 1}, {0, 3}}) {
    expect_error([&] { call(bad); }, {"linears: coarse rows " + std::to_string(bad.begin), "of 2"});
  }
}

TEST_CASE_FIXTURE(fixture, "matmul") {
  CHECK_NOTHROW(ops::matmul(be, t(2, 3, 5), t(2, 3, 4), t(2, 4, 5)));
  CHECK_NOTHROW(ops::matmul(be, t(2, 3, 5), t(2, 3, 4), t(2, 5, 4), {.transpose_b = true}));
  expect_error([&] { ops::matmul(be, t(2, 3, 5), t(1, 3, 4), t(2, 4, 5)); },
               {"matmul: a", "[1, 3, 4]", "[2, 3, 4]"});
  expect_error([&] { ops::matmul(be, t(2, 3, 5), t(2, 2, 4), t(2, 4, 5)); },
               {"matmul: a", "[2, 2, 4]", "[2, 3, 4]"});
  expect_error([&] { ops::matmul(be, t(2, 3, 5), t(2, 3, 4), t(2, 5, 4)); },
               {"matmul: b", "[2, 5, 4]", "[2, 4, 5]"});
  expect_error([&] { ops::matmul(be, t(2, 3, 5), t(2, 3, 4), t(2, 4, 5), {.transpose_b = true}); },
               {"matmul: b", "[2, 4, 5]", "[2, 5, 4]"});
  expect_error([&] { ops::matmul(be, gappy(2, 3, 5), t(2, 3, 4), t(2, 4, 5)); },
               {"matmul: o", "stride of 2", "1"});
  expect_error([&] { ops::matmul(be, t(2, 3, 5), gappy(2, 3, 4), t(2, 4, 5)); },
               {"matmul: a", "stride of 2", "1"});
  expect_error([&] { ops::matmul(be, t(2, 3, 5), t(2, 3, 4), gappy(2, 4, 5)); },
               {"matmul: b", "stride of 2", "1"});
}

TEST_CASE_FIXTURE(fixture, "norm") {
  CHECK_NOTHROW(ops::norm(be, t(2, 3), t(2, 3), t(3), {}));
  expect_error([&] { ops::norm(be, t(2, 3), t(2, 4), t(3), {}); }, {"norm: x", "[2, 4]", "[2, 3]"});
  expect_error([&] { ops::norm(be, t(2, 3), t(1, 3), t(3), {}); }, {"norm: x", "[1, 3]", "[2, 3]"});
  expect_error([&] { ops::norm(be, t(2, 3), t(2, 3), t(2), {}); }, {"norm: weight", "[2]", "[3]"});
  expect_error([&] { ops::norm(be, t(2, 3), t(2, 3), t(3), t(4)); }, {"norm: bias", "[4]", "[3]"});
  expect_error([&] { ops::norm(be, t(2, 3), gappy(2, 3), t(3), {}); }, {"norm: x", "stride of 2"});
  expect_error([&] { ops::norm(be, gappy(2, 3), t(2, 3), t(3), {}); }, {"norm: o", "stride of 2"});
  expect_error([&] { ops::norm(be, t(2, 3), t(2, 3), gappy(3), {}); },
               {"norm: weight", "stride of 2"});
  expect_error([&] { ops::norm(be, t(2, 3), t(2, 3), t(3), gappy(3)); },
               {"norm: bias", "stride of 2"});
  expect_error(
      [&] { ops::norm_backward<backend, float>(be, t(2, 3), {}, t(2, 3), t(2, 3), gappy(3), {}); },
      {"norm_backward: weight", "stride of 2"});
}

TEST_CASE_FIXTURE(fixture, "rope") {
  CHECK_NOTHROW(ops::rope(be, t(2, 3, 8), rows(2), t(4)));
  expect_error([&] { ops::rope(be, t(2, 3, 8), rows(3), t(4)); },
               {"rope: positions", "[3]", "[2]"});
  expect_error([&] { ops::rope(be, t(2, 3, 8), rows(2), t(8)); },
               {"rope: frequencies", "[8]", "[4]"});
  expect_error([&] { ops::rope(be, t(2, 3, 7), rows(2), t(3)); }, {"rope: head_dim 7"});
  expect_error([&] { ops::rope(be, gappy(2, 3, 8), rows(2), t(4)); }, {"rope: x", "stride of 2"});
  expect_error(
      [&] {
        ops::rope(be, t(2, 3, 8), {numbers.data(), {2}, {2}}, t(4));
      },
      {"rope: positions", "stride of 2"});
  expect_error([&] { ops::rope(be, t(2, 3, 8), rows(2), gappy(4)); },
               {"rope: frequencies", "stride of 2"});
}

TEST_CASE_FIXTURE(fixture, "activation") {
  const auto silu = activation_kind::silu;
  CHECK_NOTHROW(ops::activation(be, t(2, 3), t(2, 3), t(2, 3), silu));
  CHECK_NOTHROW(ops::activation(be, t(2, 3), t(2, 3), {}, silu));
  expect_error([&] { ops::activation(be, t(2, 3), t(2, 4), {}, silu); },
               {"activation: gate", "[2, 4]", "[2, 3]"});
  expect_error([&] { ops::activation(be, t(2, 3), t(2, 3), t(3, 3), silu); },
               {"activation: up", "[3, 3]", "[2, 3]"});
  expect_error([&] { ops::activation(be, gappy(2, 3), t(2, 3), {}, silu); },
               {"activation: o", "stride of 2"});
  expect_error([&] { ops::activation(be, t(2, 3), gappy(2, 3), {}, silu); },
               {"activation: gate", "stride of 2"});
  expect_error([&] { ops::activation(be, t(2, 3), t(2, 3), gappy(2, 3), silu); },
               {"activation: up", "stride of 2"});
}

TEST_CASE_FIXTURE(fixture, "add") {
  CHECK_NOTHROW(ops::add(be, t(2, 3), t(2, 3), t(2, 3)));
  expect_error([&] { ops::add(be, t(2, 3), t(2, 2), t(2, 3)); }, {"add: a", "[2, 2]", "[2, 3]"});
  expect_error([&] { ops::add(be, t(2, 3), t(2, 3), t(3, 3)); }, {"add: b", "[3, 3]", "[2, 3]"});
  expect_error([&] { ops::add(be, gappy(2, 3), t(2, 3), t(2, 3)); }, {"add: o", "stride of 2"});
  expect_error([&] { ops::add(be, t(2, 3), gappy(2, 3), t(2, 3)); }, {"add: a", "stride of 2"});
  expect_error([&] { ops::add(be, t(2, 3), t(2, 3), gappy(2, 3)); }, {"add: b", "stride of 2"});
}

TEST_CASE_FIXTURE(fixture, "masked_softmax") {
  CHECK_NOTHROW(ops::masked_softmax(be, t(2, 3, 4), causal_mask{}, {}));
  CHECK_NOTHROW(ops::masked_softmax(be, t(2, 3, 4), causal_mask{}, {}, t(2, 3)));
  expect_error([&] { ops::masked_softmax(be, t(2, 3, 4), causal_mask{}, {}, t(3, 2)); },
               {"masked_softmax: lse", "[3, 2]", "[2, 3]"});
  expect_error([&] { ops::masked_softmax(be, gappy(2, 3, 4), causal_mask{}, {}); },
               {"masked_softmax: s", "stride of 2"});
}

TEST_CASE_FIXTURE(fixture, "gather_rows and scatter_rows") {
  std::vector<float> elsewhere(64);
  const matrix_view<const float> x(elsewhere.data(), {3, 4});
  numbers = {0, 1, 2, 0};
  CHECK_NOTHROW(ops::gather_rows(be, t(2, 4), x, rows(2)));
  expect_error([&] { ops::gather_rows(be, t(2, 4), x, rows(3)); },
               {"gather_rows: rows", "[3]", "[2]"});
  expect_error([&] { ops::gather_rows(be, t(2, 5), x, rows(2)); },
               {"gather_rows: x", "[3, 4]", "[3, 5]"});
  expect_error([&] { ops::gather_rows(be, gappy(2, 4), x, rows(2)); },
               {"gather_rows: o", "stride of 2"});
  expect_error([&] { ops::gather_rows(be, t(2, 4), gappy(3, 4), rows(2)); },
               {"gather_rows: x", "stride of 2"});
  CHECK_NOTHROW(ops::scatter_rows(be, t(5, 4), x, rows(3)));
  expect_error([&] { ops::scatter_rows(be, t(5, 4), x, rows(2)); },
               {"scatter_rows: rows", "[2]", "[3]"});
  expect_error([&] { ops::scatter_rows(be, t(5, 3), x, rows(3)); },
               {"scatter_rows: o", "[5, 3]", "[5, 4]"});
  expect_error([&] { ops::scatter_rows(be, gappy(5, 4), x, rows(3)); },
               {"scatter_rows: o", "stride of 2"});
  expect_error([&] { ops::scatter_rows(be, t(5, 4), gappy(3, 4), rows(3)); },
               {"scatter_rows: x", "stride of 2"});
}

struct attention_fixture : fixture {
  std::vector<float> queries = std::vector<float>(256, 0.5F);
  std::vector<visible_spans> seen = std::vector<visible_spans>(2, {3, 0, 4});
  workspace<backend> scratch{be, 1 << 16};

  tensor_view<const float, 3> q(index_t n, index_t heads, index_t dim) {
    return {queries.data(), {n, heads, dim}};
  }
  kv_span<float, host_space> part(index_t heads, index_t rows, index_t dim) {
    const tensor_view<const float, 3> x(queries.data(), {heads, rows, dim});
    return {x, x};
  }
  span_list spans() { return {seen, seen.data()}; }
  void attend(const kv_spans<float, host_space>& kv) {
    ops::attention(be, t(2, 4, 8), q(2, 4, 8), kv, spans(), 1.0, scratch);
  }
};

TEST_CASE_FIXTURE(attention_fixture, "attention on spans") {
  const kv_spans<float, host_space> good{part(2, 1, 8), part(2, 2, 8), part(2, 4, 8)};
  CHECK_NOTHROW(attend(good));
  expect_error([&] { ops::attention(be, t(2, 4, 8), q(2, 3, 8), good, spans(), 1.0, scratch); },
               {"attention: q", "[2, 3, 8]", "[2, 4, 8]"});
  expect_error(
      [&] {
        attend({part(3, 3, 8), {}, part(3, 4, 8)});
      },
      {"attention: n_heads 4", "n_kv_heads 3"});
  expect_error([&] { attend({}); }, {"attention: n_heads 4", "n_kv_heads 0"});
  expect_error(
      [&] {
        attend({part(1, 3, 8), {}, part(2, 4, 8)});
      },
      {"attention: k", "[1, 3, 8]", "[2, 3, 8]"});
  expect_error(
      [&] {
        attend({part(2, 3, 6), {}, part(2, 4, 8)});
      },
      {"attention: k", "[2, 3, 6]", "[2, 3, 8]"});
  auto uneven = good;
  uneven.local.v = part(2, 3, 8).v;
  expect_error([&] { attend(uneven); }, {"attention: v", "[2, 3, 8]", "[2, 4, 8]"});
  auto gaps = good;
  gaps.own.k = gappy(2, 2, 8);
  expect_error([&] { attend(gaps); }, {"attention: k", "stride of 2"});
  expect_error(
      [&] { ops::attention(be, t(2, 4, 8), q(2, 4, 8), good, spans(), 1.0, scratch, t(2, 3)); },
      {"attention: lse", "[2, 3]", "[2, 4]"});
  seen[1].anchors = 4;
  expect_error([&] { attend(good); }, {"attention: spans name 4 anchors of 3"});
  seen[1] = {3, 2, 5};
  expect_error([&] { attend(good); }, {"attention: spans name local rows to 5 of 4"});
  seen[1] = {-1, 0, 4};
  CHECK_THROWS_AS(attend(good), shape_error);
  seen[1] = {0, -1, 4};
  CHECK_THROWS_AS(attend(good), shape_error);
  seen[1] = {0, 9, 9};  // An empty range names no row, wherever it stands.
  CHECK_NOTHROW(attend(good));
  seen.resize(1);
  expect_error([&] { attend(good); }, {"attention: spans has 1 entries, expected 2"});
}

TEST_CASE_FIXTURE(attention_fixture, "attention_backward on spans") {
  const kv_spans<float, host_space> kv{{}, part(2, 3, 8), part(2, 4, 8)};
  const kv_gradient<float, host_space> own{t(2, 3, 8), t(2, 3, 8)};
  const kv_gradient<float, host_space> local{t(2, 4, 8), t(2, 4, 8)};
  const auto derive = [&](auto from, auto found, const kv_gradient<float, host_space>& d_local) {
    ops::attention_backward<backend, float>(be, t(2, 4, 8), own, d_local, t(2, 4, 8), from, found,
                                            t(2, 4), kv, spans(), 1.0, scratch);
  };
  expect_error([&] { derive(gappy(2, 4, 8), t(2, 4, 8), local); },
               {"attention_backward: q", "stride of 2"});
  expect_error([&] { derive(t(2, 4, 8), gappy(2, 4, 8), local); },
               {"attention_backward: o", "stride of 2"});
  expect_error(
      [&] {
        derive(t(2, 4, 8), t(2, 4, 8), {gappy(2, 4, 8), t(2, 4, 8)});
      },
      {"attention_backward: dk", "stride of 2"});
  seen[1].anchors = 4;
  expect_error([&] { derive(t(2, 4, 8), t(2, 4, 8), local); },
               {"attention_backward: spans name 4 anchors of 3"});
  seen[1] = {0, 0, 5};
  expect_error([&] { derive(t(2, 4, 8), t(2, 4, 8), local); },
               {"attention_backward: spans name local rows to 5 of 4"});
}

TEST_CASE_FIXTURE(attention_fixture, "attention with too small a workspace") {
  const std::size_t needed = ops::attention_workspace_size<backend, float>(2, 4, 2, 7);
  CHECK(needed > 0);
  const kv_spans<float, host_space> kv{part(2, 1, 8), part(2, 2, 8), part(2, 4, 8)};
  workspace<backend> enough(be, needed);
  CHECK_NOTHROW(ops::attention(be, t(2, 4, 8), q(2, 4, 8), kv, spans(), 1.0, enough));
  workspace<backend> small(be, needed - 64);
  expect_error([&] { ops::attention(be, t(2, 4, 8), q(2, 4, 8), kv, spans(), 1.0, small); },
               {"workspace", std::to_string(needed), std::to_string(needed - 64)});
}

TEST_CASE_FIXTURE(attention_fixture, "attention with a mask") {
  const auto attend = [&](auto k, auto v, matrix_view<float> lse = {}) {
    ops::attention(be, t(2, 4, 8), q(2, 4, 8), k, v, causal_mask{}, 1.0, scratch, lse);
  };
  CHECK_NOTHROW(attend(q(2, 5, 8), q(2, 5, 8)));
  expect_error([&] { attend(q(3, 5, 8), q(3, 5, 8)); }, {"attention: n_heads 4", "n_kv_heads 3"});
  expect_error([&] { attend(q(2, 5, 6), q(2, 5, 6)); }, {"attention: k", "[2, 5, 6]", "[2, 5, 8]"});
  expect_error([&] { attend(q(2, 5, 8), q(2, 4, 8)); }, {"attention: v", "[2, 4, 8]", "[2, 5, 8]"});
  expect_error([&] { attend(q(2, 5, 8), q(2, 5, 8), t(4, 2)); },
               {"attention: lse", "[4, 2]", "[2, 4]"});
}

}  // namespace
}  // namespace gistkv
