// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <gistkv/backends/onednn.hpp>

#include "golden/train_checks.hpp"

namespace gistkv::test {

using fast = backends::onednn<float>;

TEST_CASE("20 steps on gist rows, onednn") { check_gist_training<fast>(); }
TEST_CASE("20 steps on LoRA, onednn") { check_lora_training<fast>(); }

}  // namespace gistkv::test
