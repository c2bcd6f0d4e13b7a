// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The tests of the tests: a backend with a fault fails, and the report says where.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/conformance/broken.hpp>
#include <gistkv/conformance/run.hpp>

namespace gistkv::conformance {
namespace {

using reference = backends::eigen<float>;

std::string first_failure(const report& all, std::string_view op) {
  for (const result& r : all.results()) {
    if (r.op == op && !r.skipped() && !r.passed()) return to_string(r);
  }
  return "";
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("every fault fails the suite in cases of the operation at fault, and only there") {
  for (const fault_entry& entry : fault_table) {
    CAPTURE(entry.name);
    broken<reference> be(entry.kind, 1);
    report all;
    run(be, all, {.model_shapes = false});
    CHECK_FALSE(all.passed());
    const std::string failure = first_failure(all, entry.op);
    REQUIRE_FALSE(failure.empty());
    CAPTURE(failure);
    CHECK(contains(failure, std::string(entry.op) + " f32 native ["));
    CHECK(contains(failure, " seed "));
    const bool by_value = contains(failure, ": error ") && contains(failure, ", budget ");
    const bool by_guard = contains(failure, "at place ");
    CHECK((by_value || by_guard));
    CHECK(contains(format(all), failure));

    for (const result& r : all.results()) {
      // What is composed of the operation fails with it.
      if (r.passed() || r.skipped() || r.op == entry.op || r.path == "composed") continue;
      const bool through_bias = entry.op == "add" && r.op == "linear";
      CHECK_MESSAGE(through_bias, to_string(r));
    }
  }
}

TEST_CASE("a native attention is run beside the composed one and judged by itself") {
  with_native_attention<reference, false> right(1);
  report good;
  run(right, good, {.model_shapes = false});
  CHECK(good.passed());
  const auto is_native = [](const result& r) { return r.op == "attention" && r.path == "native"; };
  const auto n_native = std::count_if(good.results().begin(), good.results().end(), is_native);
  CHECK(n_native > 20);

  with_native_attention<reference, true> blind(1);
  report bad;
  run(blind, bad, {.model_shapes = false});
  CHECK_FALSE(bad.passed());
  for (const result& r : bad.results()) {
    if (!r.passed() && !r.skipped()) CHECK((is_native(r) || r.op == "attention_batch"));
  }
  CHECK(contains(first_failure(bad, "attention"), "attention f32 native ["));
}

TEST_CASE("a backend that ran no case did not pass, and skips are counted with their reason") {
  report none;
  CHECK_FALSE(none.passed());
  none.add({.op = "all", .dtype = "f16", .path = "native", .case_text = "", .skip_reason = "why"});
  CHECK_FALSE(none.passed());
  CHECK(none.n_skipped() == 1);
  CHECK(none.n_run() == 0);
  CHECK(contains(format(none), "skipped all f16: why"));

  reference be(1);
  report all;
  run(be, all, {.model_shapes = false});
  CHECK(all.passed());
  CHECK(all.n_skipped() == 3);
}

TEST_CASE("an operation that throws fails its case") {
  struct throws : reference {
    using reference::reference;
    void add(matrix_view<float>, matrix_view<const float>, matrix_view<const float>) {
      throw backend_error("driver gone");
    }
  };
  throws be(1);
  report all;
  check<float>(be, add_case{.n = 2, .d = 3}, all);
  REQUIRE(all.results().size() == 1);
  CHECK(contains(to_string(all.results()[0]), "throws: driver gone"));
}

expected wanted(std::initializer_list<double> values, double scale) {
  expected e;
  for (const double v : values) e.push(v, scale);
  return e;
}

TEST_CASE("the comparator sees signs, NaN, infinities and errors of negative numbers") {
  const auto passes = [](double found, double want) {
    const double values[] = {found};
    return compare(values, wanted({want}, 1.0), 1e-3, 0.0).passed;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(passes(1.0, 1.0));
  CHECK(passes(1.0009, 1.0));
  CHECK(passes(-1.0009, -1.0));
  CHECK_FALSE(passes(1.0011, 1.0));
  CHECK_FALSE(passes(-1.0011, -1.0));
  CHECK_FALSE(passes(-1.0, 1.0));
  CHECK_FALSE(passes(1.0, -1.0));
  CHECK_FALSE(passes(-2.0, -1.0));
  CHECK_FALSE(passes(nan, 1.0));
  CHECK_FALSE(passes(1.0, nan));
  CHECK_FALSE(passes(nan, nan));
  CHECK_FALSE(passes(inf, 1.0));
  CHECK_FALSE(passes(inf, -inf));
  CHECK(passes(-inf, -inf));
}

TEST_CASE("the comparator reports the worst element, and a scale of 0 asks for equality") {
  const double found[] = {1.0, 2.5, 3.25};
  const comparison worst = compare(found, wanted({1.0, 2.0, 3.0}, 1.0), 0.1, 0.0);
  CHECK_FALSE(worst.passed);
  CHECK(worst.index == 1);
  CHECK(worst.error == 0.5);
  CHECK(worst.budget == doctest::Approx(0.1));
  CHECK(worst.ratio == doctest::Approx(5.0));

  const double almost[] = {1e-300};
  CHECK_FALSE(compare(almost, wanted({0.0}, 0.0), 1.0, 1.0).passed);
  const double equal[] = {0.0};
  CHECK(compare(equal, wanted({0.0}, 0.0), 1.0, 1.0).passed);
  // A failure in one element is not hidden by a later one that passes.
  const double mixed[] = {9.0, 1.0};
  CHECK_FALSE(compare(mixed, wanted({1.0, 1.0}, 1.0), 0.1, 0.0).passed);
  const double last_is_nan[] = {9.0, std::numeric_limits<double>::quiet_NaN(), 1.0};
  CHECK(compare(last_is_nan, wanted({1.0, 1.0, 1.0}, 1.0), 0.1, 0.0).index == 1);
  CHECK_THROWS_AS(compare(mixed, wanted({1.0}, 1.0), 0.1, 0.0), shape_error);
  CHECK_THROWS_AS(tolerance<float>("linar"), argument_error);
}

TEST_CASE("expected values that are all zero fail a case that is not about zeros") {
  const std::vector<double> zeros(3, 0.0);
  result r{.op = "add", .dtype = "f32", .path = "native", .case_text = ""};
  detail::expect_values<reference, float>(r, "o", zeros, wanted({0, 0, 0}, 1.0));
  CHECK(contains(r.failure, "tests nothing"));
}

TEST_CASE("a guarded tensor sees one element outside its rows and one inside") {
  reference be(1);
  guarded<float, 2, reference> x(be, placement<2>({2, 3}, 1),
                                 std::vector<double>{1, 2, 3, 4, 5, 6});
  CHECK_FALSE(x.first_change(true).has_value());
  x.view()(1, 2) = 7.0F;
  CHECK_FALSE(x.first_change(false).has_value());
  CHECK(x.first_change(true) == placement<2>::guard + 1 + 4 + 2);
  CHECK(x.values() == std::vector<double>{1, 2, 3, 4, 5, 7});
  CHECK(x.original() == std::vector<double>{1, 2, 3, 4, 5, 6});
  x.view().data()[3] = 0.0F;  // The gap behind the first row.
  CHECK(x.first_change(false) == placement<2>::guard + 1 + 3);
}

}  // namespace
}  // namespace gistkv::conformance
