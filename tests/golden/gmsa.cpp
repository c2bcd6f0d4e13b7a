// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// GMSA on SmolLM2 against the numbers of its official code, on the reference backend.

#include <doctest/doctest.h>

#include "golden/gmsa_checks.hpp"

namespace gistkv::test {
namespace {

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA: group merging") { check_gmsa_pooling<reference>(); }
TEST_CASE("GMSA: encoder, soft tokens, answers") { check_gmsa_forward<reference>(); }
TEST_CASE("GMSA: layers, linear alignment, official generation") { check_gmsa_parts<reference>(); }
TEST_CASE("GMSA: empty and short contexts") { check_gmsa_edges<reference>(); }
TEST_CASE("GMSA: ragged batch") { check_gmsa_batch<reference>(); }

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
