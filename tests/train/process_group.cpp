// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cstddef>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/train/process_group.hpp>

/// Gradients summed over processes: what is sent, and where it arrives.

namespace gistkv::test {

namespace {

using reference = backends::eigen<double>;
using parameters = train::parameter_set<reference, double>;

/// Stands for a second process whose gradients are 1000, 1001, 1002, ...
struct counting_group {
  index_t rank() const { return 0; }
  index_t n_ranks() const { return 2; }
  void sum(std::span<double> values) {
    sizes.push_back(values.size());
    for (double& x : values) x += next++;
  }
  double next = 1000;
  std::vector<std::size_t> sizes;
};
static_assert(train::ProcessGroup<counting_group, double>);
static_assert(!train::ProcessGroup<counting_group, float>);
static_assert(train::ProcessGroup<train::single_process, float>);

/// The same where gradients lie.
struct counting_device_group {
  index_t n_ranks() const { return n; }
  void sum_all(std::span<const vector_view<double>> vectors) {
    for (const vector_view<double>& v : vectors) {
      for (index_t i = 0; i < v.extent(0); ++i) v.data()[i] += next++;
    }
    ++calls;
  }
  index_t n = 2;
  double next = 1000;
  int calls = 0;
};
static_assert(train::DeviceGroup<counting_device_group, reference, double>);
static_assert(!train::DeviceGroup<counting_group, reference, double>);
static_assert(!train::ProcessGroup<counting_device_group, double>);

void add_three(parameters& set) {
  for (const index_t rows : {2, 1, 4}) {
    const std::vector<float> values(static_cast<std::size_t>(rows * 3), 0.5F);
    set.add(std::to_string(rows), train::parameter_kind::lora, rows, 3, values);
  }
}

void fill(parameters& set) {
  double next = 0;
  for (std::size_t i = 0; i < set.size(); ++i) {
    for (index_t e = 0; e < set[i].gradient.size(); ++e) set[i].gradient.data()[e] = next++;
  }
}

TEST_CASE("sum_gradients: every element once, whatever the buckets") {
  reference be(1);
  parameters set(be);
  add_three(set);
  REQUIRE(set.n_elements() == 21);
  for (const index_t bucket : {1, 2, 7, 20, 21, 1000}) {
    CAPTURE(bucket);
    fill(set);
    counting_group group;
    train::sum_gradients(set, group, bucket);
    double next = 0;
    for (std::size_t i = 0; i < set.size(); ++i) {
      for (index_t e = 0; e < set[i].gradient.size(); ++e, ++next) {
        CHECK(set[i].gradient.data()[e] == 1000 + 2 * next);
        CHECK(set[i].value.data()[e] == 0.5);
      }
    }
    CHECK(group.sizes.size() == static_cast<std::size_t>((21 + bucket - 1) / bucket));
    for (const std::size_t n : group.sizes) CHECK(n <= static_cast<std::size_t>(bucket));
  }
}

TEST_CASE("sum_gradients: one process sends nothing, and a bucket holds something") {
  reference be(1);
  parameters set(be);
  const std::vector<float> values(6, 0.5F);
  set.add("p", train::parameter_kind::gist, 2, 3, values);
  fill(set);
  train::single_process alone;
  train::sum_gradients(set, alone);
  for (index_t e = 0; e < 6; ++e) CHECK(set[0].gradient.data()[e] == static_cast<double>(e));
  counting_group group;
  CHECK_THROWS_WITH_AS(train::sum_gradients(set, group, 0),
                       "sum_gradients: bucket is 0 elements, expected at least 1", argument_error);
}

TEST_CASE("sum_gradients where they lie: what is trained, once, in one call") {
  reference be(1);
  parameters set(be);
  add_three(set);
  set[1].trained = false;
  fill(set);
  counting_device_group alone, group;
  alone.n = 1;
  train::sum_gradients(set, alone);
  train::sum_gradients(set, group);
  CHECK(alone.calls == 0);
  CHECK(group.calls == 1);
  double sent = 1000;
  double next = 0;
  for (std::size_t i = 0; i < set.size(); ++i) {
    for (index_t e = 0; e < set[i].gradient.size(); ++e, ++next) {
      CHECK(set[i].gradient.data()[e] == next + (i == 1 ? 0 : sent++));
      CHECK(set[i].value.data()[e] == 0.5);
    }
  }
}

}  // namespace

}  // namespace gistkv::test
