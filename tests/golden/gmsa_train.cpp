// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Training of GMSA against the official code, on the reference backend.

#include <doctest/doctest.h>

#include "golden/gmsa_train_checks.hpp"

namespace gistkv::test {
namespace {

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA: all gradients of tiny checkpoints") { check_gmsa_tiny_gradients<reference>(); }
TEST_CASE("GMSA: gradients and ten steps, restoring") {
  check_gmsa_stage<reference>(gmsa::stage::restoring);
}
TEST_CASE("GMSA: gradients and ten steps, KEFT") {
  check_gmsa_stage<reference>(gmsa::stage::answering);
}
TEST_CASE("GMSA: gradients and ten steps, all of the decoder") {
  check_gmsa_stage<reference>(gmsa::stage::decoder);
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
