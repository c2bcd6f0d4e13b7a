// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A mask goes into a kernel by value, so it owns no memory.
// expect: AttentionMask|is_trivially_copyable
#include <vector>

#include <gistkv/core/attention_mask.hpp>

struct owning_mask {
  std::vector<bool> seen;
  bool operator()(gistkv::index_t, gistkv::index_t k) const {
    return seen[static_cast<std::size_t>(k)];
  }
};

template <gistkv::AttentionMask M>
void needs_a_mask(M) {}

void with_causal() { needs_a_mask(gistkv::causal_mask{}); }
void with_owning() { needs_a_mask(owning_mask{}); }  // rejected
