// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Golden part F on the reference backend.
#include <doctest/doctest.h>

#include "golden/cache_checks.hpp"

namespace gistkv::test {
namespace {

TEST_SUITE_BEGIN("golden");

TEST_CASE("F: compaction and decode") { check_compaction<reference>(); }

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
