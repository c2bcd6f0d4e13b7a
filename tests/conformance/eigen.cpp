// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/conformance/run.hpp>

TEST_CASE_TEMPLATE("eigen conforms", T, float, double) {
  gistkv::backends::eigen<T> be;
  gistkv::conformance::report report;
  gistkv::conformance::run(be, report);
  MESSAGE(gistkv::conformance::format(report));
  CHECK(report.passed());
}
