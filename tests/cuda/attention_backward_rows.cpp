// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the plain kernels of attention's backward pass, run on the host.
#include <doctest/doctest.h>

#include <functional>
#include <utility>

#include <cuda/attention_backward.hpp>
#include <cuda/emulation.hpp>

namespace gistkv {
namespace {

using namespace emulation;

template <class T>
void run(const attention_backward_call<T>& c, int head_dim) {
  const std::uint32_t shared = backward_row_shared_bytes(head_dim);
  run_block(1, shared, 1, fault::none, [&](group<32>& w) {
    for (index_t i = 0; i < index_t{c.forward.n_tokens} * c.n_kv_heads * c.group; ++i) {
      backward_query_row<T>(w, c, head_dim, i);
    }
    for (const int part : {local_part, own_part}) {
      for (index_t row = 0; row < c.forward.parts[part].rows; ++row) {
        for (index_t h = 0; h < c.n_kv_heads; ++h) {
          backward_key_row<T>(w, c, head_dim, part, row, h);
        }
      }
    }
  });
}

template <class T>
void check(int begin, int end) {
  for (int i = begin; i < end; ++i) {
    constexpr int head_dims[] = {64, 8, 80, 5, 128, 1};
    layout_options options = sweep(i, head_dims[i % 6]);
    options.n_sequences = 1;
    options.most_tokens = 40;
    options.most_past = 80;
    options.prefix = false;
    options.group = std::min(options.group, 4);
    CAPTURE(options.text());
    layout<T> texts(options);
    backward_case<T> expected(texts.cases().front(), options, texts.scale());
    run<T>(expected.call(), options.head_dim);
    CHECK(expected.worst() <= 1.0);
    CHECK(expected.guards_hold());
  }
}

TEST_CASE("rows backward, float") { check<float>(0, 24); }
TEST_CASE("rows backward, bf16") { check<bf16>(24, 48); }
TEST_CASE("rows backward, f16") { check<f16>(48, 60); }

TEST_CASE("what a wrong argument does shows") {
  const layout_options options{
      .group = 3, .n_kv_heads = 2, .most_tokens = 60, .prefix = false, .seed = 5};
  using call = attention_backward_call<float>;
  const std::function<void(call&)> faults[] = {
      [](call&) {},
      [](call& c) { c.scale *= 1.01F; },
      [](call& c) {
        std::swap(c.dk[own_part], c.dv[own_part]);
        std::swap(c.dk_row[own_part], c.dv_row[own_part]);
        std::swap(c.dk_head[own_part], c.dv_head[own_part]);
      },
      [](call& c) { c.forward.parts[own_part].rows -= 1; },
      [](call& c) { c.d_o += c.d_o_head; },
      [](call& c) { c.forward.o += c.forward.o_head; },
      [](call& c) { c.forward.parts[local_part].v += c.forward.parts[local_part].v_row; },
  };
  for (std::size_t f = 0; f < std::size(faults); ++f) {
    CAPTURE(f);
    layout<float> texts(options);
    backward_case<float> expected(texts.cases().front(), options, texts.scale());
    auto c = expected.call();
    REQUIRE(c.forward.parts[own_part].rows > 0);
    faults[f](c);
    run<float>(c, options.head_dim);
    CHECK((expected.worst() <= 1.0) == (f == 0));
  }
}

}  // namespace
}  // namespace gistkv
