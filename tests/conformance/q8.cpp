// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The suite's cases of caches in q8: they pass on a backend that has them, and see what is wrong.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include <gistkv/conformance/run.hpp>
#include <gistkv/core/q8.hpp>

#include "support/fused_backend.hpp"

namespace gistkv {
namespace {

/// Each breaks one thing.
class drops_last_level : public test::fused {
 public:
  using fused::fused;
  void append_rows(matrix_view<q8> o, matrix_view<const float> x,
                   vector_view<const std::int32_t> rows) {
    fused::append_rows(o, x, rows);
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) >= 0) o(rows(i), x.extent(1) - 1).level = 0;
    }
  }
};
class writes_behind_the_scale : public test::fused {
 public:
  using fused::fused;
  void append_rows(matrix_view<q8> o, matrix_view<const float> x,
                   vector_view<const std::int32_t> rows) {
    fused::append_rows(o, x, rows);
    const index_t width = row_width<q8>(x.extent(1));
    if (o.stride(0) == width) return;  // There the next row begins.
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) >= 0) o.data()[rows(i) * o.stride(0) + width].level = 0;
    }
  }
};
class ignores_row_strides : public test::fused {
 public:
  using fused::fused;
  void attention(tensor_view<float, 3> o, tensor_view<const float, 3> q,
                 const kv_spans<q8, host_space>& kv, const span_list& spans, double scale,
                 matrix_view<float> lse) {
    auto wrong = kv;
    const tensor_view<const q8, 3> v = kv.local.v;
    wrong.local.v = {v.data(), v.extents(), {v.stride(0), row_width<q8>(v.extent(2)), 1}};
    fused::attention(o, q, wrong, spans, scale, lse);
  }
};

template <class B>
conformance::report suite() {
  B be(1);
  conformance::report found;
  conformance::run_cache<float, q8>(be, found);
  return found;
}

TEST_CASE("caches in q8 conform") {
  const conformance::report found = suite<test::fused>();
  MESSAGE(conformance::format(found));
  CHECK(found.passed());
  CHECK(found.results().size() > 20);
}

TEST_CASE("what is wrong with a cache in q8 is seen") {
  CHECK_FALSE(suite<drops_last_level>().passed());
  CHECK_FALSE(suite<writes_behind_the_scale>().passed());
  CHECK_FALSE(suite<ignores_row_strides>().passed());
}

TEST_CASE("levels are the nearest, and rows that are not finite say so") {
  const std::vector<float> x{0.0F, -2.54F, 1.28F, 0.0099F, 0.0101F};
  std::vector<q8> row(static_cast<std::size_t>(row_width<q8>(5)));
  CHECK(row.size() == 12);
  encode_row(x.data(), 5, row.data());
  const std::vector<int> want{0, -127, 64, 0, 1, 0, 0, 0};
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(row[i].level == want[i]);
  CHECK(q8_scale(row.data(), 5) == doctest::Approx(0.02));
  std::vector<float> back(5);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    auto y = x;
    y[2] = bad;
    encode_row(y.data(), 5, row.data());
    decode_row(row.data(), 5, back.data());
    for (const float v : back) CHECK(v != v);
  }
  const std::vector<float> nothing(5, 1e-38F);
  encode_row(nothing.data(), 5, row.data());
  decode_row(row.data(), 5, back.data());
  for (const float v : back) CHECK(v == 0.0F);
}

}  // namespace
}  // namespace gistkv
