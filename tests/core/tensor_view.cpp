// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <concepts>
#include <numeric>
#include <type_traits>
#include <vector>

#include <gistkv/core/tensor_view.hpp>

namespace gistkv {
namespace {

template <class V, class... I>
concept indexable = requires(const V& v, I... i) {
  v(i...);
};

static_assert(std::is_trivially_copyable_v<tensor_view<float, 3, device_space>>);
static_assert(std::is_convertible_v<matrix_view<float>, matrix_view<const float>>);
static_assert(!std::is_convertible_v<matrix_view<const float>, matrix_view<float>>);
static_assert(!std::is_convertible_v<matrix_view<float, device_space>, matrix_view<float>>);
static_assert(!std::is_convertible_v<matrix_view<float>, matrix_view<float, device_space>>);
static_assert(!std::is_convertible_v<matrix_view<float, device_space>, matrix_view<const float>>);
static_assert(!std::is_convertible_v<matrix_view<float>, matrix_view<const double>>);
static_assert(!std::is_convertible_v<matrix_view<float>, vector_view<float>>);
static_assert(indexable<matrix_view<float>, int, index_t>);
static_assert(!indexable<matrix_view<float>, int>);
static_assert(!indexable<matrix_view<float, device_space>, int, int>);

std::vector<int> numbered(int n) {
  std::vector<int> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

TEST_CASE("dense tensors are row-major") {
  auto v = numbered(24);
  const tensor_view<int, 3> t(v.data(), {2, 3, 4});
  CHECK(t.size() == 24);
  CHECK(t(0, 0, 0) == 0);
  CHECK(t(1, 2, 3) == 23);
  CHECK(t.offset(1, 0, 2) == 14);
  CHECK(t.stride(0) == 12);
  CHECK(t.stride(1) == 4);
  CHECK(t.stride(2) == 1);
  CHECK(t.dense());
  CHECK(t.last_contiguous());
  CHECK_FALSE(t.empty());
  t(1, 1, 1) = -1;
  CHECK(v[17] == -1);
}

TEST_CASE("slices keep strides; at drops the first dimension") {
  auto v = numbered(24);
  const tensor_view<int, 3> t(v.data(), {2, 3, 4});
  const auto rows = t.rows(1, 1);
  CHECK(rows.extents() == std::array<index_t, 3>{1, 3, 4});
  CHECK(rows(0, 0, 0) == 12);
  CHECK(rows.dense());
  const auto columns = t.slice(2, 1, 2);
  CHECK(columns.extents() == std::array<index_t, 3>{2, 3, 2});
  CHECK(columns(1, 2, 1) == 22);
  CHECK_FALSE(columns.dense());
  CHECK(columns.last_contiguous());
  const matrix_view<int> second = t.at(1);
  CHECK(second(2, 3) == 23);
  CHECK(second.at(2)(0) == 20);
  const auto one_column = t.slice(2, 3, 1);
  CHECK(one_column.last_contiguous());
  CHECK(one_column(1, 0, 0) == 15);
  const auto nothing = t.slice(1, 3, 0);
  CHECK(nothing.empty());
  CHECK(nothing.size() == 0);
}

TEST_CASE("strided and repeated rows") {
  auto v = numbered(12);
  const matrix_view<int> transposed(v.data(), {4, 3}, {1, 4});
  CHECK(transposed(3, 2) == 11);
  CHECK_FALSE(transposed.last_contiguous());
  CHECK_FALSE(transposed.dense());
  const vector_view<const int> row(v.data() + 4, {4});
  const matrix_view<const int> repeated = repeat_rows(row, 1000);
  CHECK(repeated.extents() == std::array<index_t, 2>{1000, 4});
  CHECK(repeated(0, 1) == 5);
  CHECK(repeated(999, 1) == 5);
  CHECK_FALSE(repeated.dense());
}

TEST_CASE("extents of one make any stride dense") {
  int x = 3;
  const matrix_view<int> single(&x, {1, 1}, {77, 99});
  CHECK(single.dense());
  CHECK(single.last_contiguous());
  CHECK(single(0, 0) == 3);
  const matrix_view<int> unset;
  CHECK(unset.empty());
  CHECK(unset.data() == nullptr);
}

TEST_CASE("extents beyond 32 bits") {
  const matrix_view<char> huge(nullptr, {index_t{1} << 20, index_t{1} << 20});
  CHECK(huge.size() == index_t{1} << 40);
  CHECK(huge.offset(index_t{1} << 19, 5) == (index_t{1} << 39) + 5);
}

TEST_CASE("views work in constant expressions") {
  static constexpr int values[] = {1, 2, 3, 4, 5, 6};
  constexpr matrix_view<const int> m(values, {2, 3});
  static_assert(m(1, 2) == 6);
  static_assert(m.rows(1, 1)(0, 0) == 4);
}

}  // namespace
}  // namespace gistkv
