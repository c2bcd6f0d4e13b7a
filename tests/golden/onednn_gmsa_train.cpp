// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Training of GMSA against the official code, on the onednn backend in float.

#include <doctest/doctest.h>

#include <gistkv/backends/onednn.hpp>

#include "golden/gmsa_train_checks.hpp"

namespace gistkv::test {
namespace {

using exact = backends::onednn<float>;

TEST_SUITE_BEGIN("golden");

TEST_CASE("GMSA on onednn: all gradients of tiny checkpoints") {
  check_gmsa_tiny_gradients<exact>();
}
TEST_CASE("GMSA on onednn: gradients and ten steps, restoring") {
  check_gmsa_stage<exact>(gmsa::stage::restoring);
}
TEST_CASE("GMSA on onednn: gradients and ten steps, KEFT") {
  check_gmsa_stage<exact>(gmsa::stage::answering);
}
TEST_CASE("GMSA on onednn: gradients and ten steps, all of the decoder") {
  check_gmsa_stage<exact>(gmsa::stage::decoder);
}

TEST_SUITE_END();

}  // namespace
}  // namespace gistkv::test
