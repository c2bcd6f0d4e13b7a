// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// GMSA on SmolLM2 against the numbers of its official code, on the onednn backend in float.

#include <doctest/doctest.h>

#include <gistkv/backends/onednn.hpp>

#include "golden/gmsa_checks.hpp"

namespace gistkv::test {
namespace {

using exact = backends::onednn<float>;

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA on onednn: group merging") { check_gmsa_pooling<exact>(); }
TEST_CASE("GMSA on onednn: encoder, soft tokens, answers") { check_gmsa_forward<exact>(); }
TEST_CASE("GMSA on onednn: layers, linear alignment, generation") { check_gmsa_parts<exact>(); }
TEST_CASE("GMSA on onednn: empty and short contexts") { check_gmsa_edges<exact>(); }
TEST_CASE("GMSA on onednn: ragged batch") { check_gmsa_batch<exact>(); }

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
