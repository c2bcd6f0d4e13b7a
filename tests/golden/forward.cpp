// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Golden parts D and E, float32 runs of independent implementations, on the reference backend.
#include <doctest/doctest.h>

#include "golden/forward_checks.hpp"

namespace gistkv::test {
namespace {

TEST_SUITE_BEGIN("golden");

TEST_CASE("D: causal forward") { check_causal_forward<reference>(); }
TEST_CASE("D: negative log-likelihood of a book") { check_book<reference>(); }
TEST_CASE("D: greedy continuation") { check_greedy<reference>(); }
TEST_CASE("E: forward with the sentence mask, double") { check_sentence_runs<oracle>(true); }
TEST_CASE("E: forward with the sentence mask, float") { check_sentence_runs<reference>(false); }

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
