// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include "golden/train_checks.hpp"

namespace gistkv::test {

TEST_CASE("20 steps on gist rows, reference") { check_gist_training<reference>(); }
TEST_CASE("20 steps on LoRA, reference") { check_lora_training<reference>(); }

}  // namespace gistkv::test
