// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gistkv/backends/onednn/cpu.hpp>

namespace gistkv::test {

/// From `least` to the best that this CPU has.
inline std::vector<backends::instruction_set> instruction_sets(
    backends::instruction_set least = backends::instruction_set::portable) {
  std::vector<backends::instruction_set> sets;
  for (int i = static_cast<int>(least); i <= static_cast<int>(backends::best_instruction_set());
       ++i) {
    sets.push_back(static_cast<backends::instruction_set>(i));
  }
  return sets;
}

}  // namespace gistkv::test
