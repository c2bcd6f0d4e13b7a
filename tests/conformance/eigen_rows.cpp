// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The bits of an output row do not depend on the rows beside it, on the number of threads or on an
// address: n rows in one call are n calls of one row.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/mask/combine.hpp>
#include <gistkv/ops/activation.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/linear.hpp>
#include <gistkv/ops/masked_softmax.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/ops/rope.hpp>

namespace gistkv {
namespace {

template <class T>
std::vector<T> normals(random_generator& random, index_t n) {
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& x : values) x = static_cast<T>(random.normal());
  return values;
}

/// A matrix [n, d] whose rows can be had together or singly, at an address of another alignment.
template <class T>
struct rows_of {
  index_t n;
  index_t d;
  std::vector<T> dense;
  std::vector<T> apart = {};

  rows_of(index_t rows, index_t columns, std::vector<T> values)
      : n(rows), d(columns), dense(std::move(values)) {
    // A gap of 3 elements and one in front put every row at another place of a cache line.
    apart.assign(static_cast<std::size_t>(n * (d + 3) + 1), T(0));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < d; ++j) single(i)(0, j) = together()(i, j);
    }
  }
  matrix_view<T> together() { return {dense.data(), {n, d}}; }
  matrix_view<T> single(index_t i) { return {apart.data() + 1 + i * (d + 3), {1, d}}; }
  bool same_bits() {
    for (index_t i = 0; i < n; ++i) {
      const auto bytes = static_cast<std::size_t>(d) * sizeof(T);
      if (std::memcmp(together().rows(i, 1).data(), single(i).data(), bytes) != 0) return false;
    }
    return true;
  }
};

template <class T>
tensor_view<T, 3> as_3d(matrix_view<T> x) {
  return {x.data(), {1, x.extent(0), x.extent(1)}, {0, x.stride(0), x.stride(1)}};
}

TEST_CASE_TEMPLATE("one row is the same in any company", T, float, double) {
  backends::eigen<T> one(1);
  backends::eigen<T> many(3);
  random_generator random(1);
  for (const index_t n : {2, 5, 12, 67}) {
    for (const index_t d : {1, 8, 15, 16, 17, 64, 100, 579}) {
      CAPTURE(n);
      CAPTURE(d);
      rows_of<T> x(n, d, normals<T>(random, n * d));
      const auto w = normals<float>(random, 301 * d);
      const auto packed = one.pack({"w", weight_type::f32, 301, d, std::as_bytes(std::span(w))});
      rows_of<T> o(n, 301, std::vector<T>(static_cast<std::size_t>(n * 301)));
      ops::linear(many, o.together(), x.together(), packed);
      for (index_t i = 0; i < n; ++i) ops::linear(one, o.single(i), x.single(i), packed);
      CHECK_MESSAGE(o.same_bits(), "linear");

      auto b = normals<T>(random, 301 * d);
      for (const bool transpose : {false, true}) {
        const tensor_view<T, 3> right(b.data(), transpose ? std::array<index_t, 3>{1, 301, d}
                                                          : std::array<index_t, 3>{1, d, 301});
        const matmul_options options{.transpose_b = transpose, .alpha = 0.3};
        ops::matmul(many, as_3d(o.together()), as_3d(x.together()), right, options);
        for (index_t i = 0; i < n; ++i) {
          ops::matmul(one, as_3d(o.single(i)), as_3d(x.single(i)), right, options);
        }
        CHECK_MESSAGE(o.same_bits(), "matmul");
      }

      const auto weight = normals<T>(random, d);
      const vector_view<const T> scale(weight.data(), {d});
      rows_of<T> y = x;
      for (const norm_kind kind : {norm_kind::rms, norm_kind::layer}) {
        ops::norm(many, y.together(), x.together(), scale, scale, {.kind = kind});
        for (index_t i = 0; i < n; ++i) {
          ops::norm(one, y.single(i), x.single(i), scale, scale, {.kind = kind});
        }
        CHECK_MESSAGE(y.same_bits(), "norm");
      }
      for (const activation_kind kind :
           {activation_kind::silu, activation_kind::gelu, activation_kind::gelu_tanh}) {
        ops::activation(many, y.together(), x.together(), x.together(), kind);
        for (index_t i = 0; i < n; ++i) {
          ops::activation(one, y.single(i), x.single(i), x.single(i), kind);
        }
        CHECK_MESSAGE(y.same_bits(), "activation");
      }
      ops::add(many, y.together(), x.together(), repeat_rows(scale, n));
      for (index_t i = 0; i < n; ++i) {
        ops::add(one, y.single(i), x.single(i), repeat_rows(scale, 1));
      }
      CHECK_MESSAGE(y.same_bits(), "add");

      y = x;
      ops::masked_softmax(many, as_3d(y.together()), causal_mask{}, {.scale = 0.7});
      for (index_t i = 0; i < n; ++i) {
        const right_aligned mask{causal_mask{}, i};
        ops::masked_softmax(one, as_3d(y.single(i)), mask, {.scale = 0.7});
      }
      CHECK_MESSAGE(y.same_bits(), "masked_softmax");

      if (d % 2 != 0) continue;
      y = x;
      std::vector<std::int32_t> positions(static_cast<std::size_t>(n));
      for (auto& p : positions) p = static_cast<std::int32_t>(random.below(5000));
      const std::vector<float> frequencies(static_cast<std::size_t>(d / 2), 0.37F);
      const vector_view<const float> f(frequencies.data(), {d / 2});
      const auto heads = [&](matrix_view<T> v) {
        return tensor_view<T, 3>(v.data(), {v.extent(0), 1, d}, {v.stride(0), d, 1});
      };
      ops::rope(many, heads(y.together()), vector_view<const std::int32_t>(positions.data(), {n}),
                f);
      for (index_t i = 0; i < n; ++i) {
        ops::rope(one, heads(y.single(i)),
                  vector_view<const std::int32_t>(positions.data() + i, {1}), f);
      }
      CHECK_MESSAGE(y.same_bits(), "rope");
    }
  }
}

TEST_CASE_TEMPLATE("keys that are not seen leave no trace in the bits", T, float, double) {
  // What a query attends to counts, not where it lies: prefill and decode then agree exactly.
  backends::eigen<T> be(1);
  random_generator random(2);
  struct every_third {
    bool operator()(index_t, index_t k) const { return k % 3 == 1; }
  };
  for (const index_t n : {1, 7, 16, 33, 200}) {
    auto packed = normals<T>(random, n);
    auto values = normals<T>(random, n * 5);
    std::vector<T> spread(static_cast<std::size_t>(3 * n), std::numeric_limits<T>::quiet_NaN());
    std::vector<T> spread_values(static_cast<std::size_t>(15 * n), T(1));
    for (index_t k = 0; k < n; ++k) {
      spread[static_cast<std::size_t>(3 * k + 1)] = packed[static_cast<std::size_t>(k)];
      std::copy_n(values.data() + 5 * k, 5, spread_values.data() + 5 * (3 * k + 1));
    }
    const tensor_view<T, 3> near(packed.data(), {1, 1, n});
    const tensor_view<T, 3> far(spread.data(), {1, 1, 3 * n});
    std::vector<T> sums(2);
    ops::masked_softmax(be, near, everything_mask{}, {}, {&sums[0], {1, 1}});
    ops::masked_softmax(be, far, every_third{}, {}, {&sums[1], {1, 1}});
    CHECK(sums[0] == sums[1]);
    for (index_t k = 0; k < n; ++k) {
      CHECK(far(0, 0, 3 * k + 1) == near(0, 0, k));
      CHECK(far(0, 0, 3 * k) == T(0));
    }
    std::vector<T> o(10);
    using view = tensor_view<T, 3>;
    ops::matmul(be, view(&o[0], {1, 1, 5}), near, view(values.data(), {1, n, 5}));
    ops::matmul(be, view(&o[5], {1, 1, 5}), far, view(spread_values.data(), {1, 3 * n, 5}));
    CHECK(std::memcmp(&o[0], &o[5], 5 * sizeof(T)) == 0);
  }
}

}  // namespace
}  // namespace gistkv
