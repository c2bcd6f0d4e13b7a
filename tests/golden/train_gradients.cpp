// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include "golden/train_checks.hpp"

namespace gistkv::test {

TEST_CASE("gradients of all weights, reference") { check_gradients<reference>(1e-4); }

}  // namespace gistkv::test
