// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/transformer.hpp>

namespace gistkv::gmsa {

/// Reads sequences of vectors through a causal stack of layers, all of them together, in pieces, at
/// positions 0, 1, ... of its own each.
/// @param[in] lengths  rows of each sequence; 0: it is passed over
/// @param[in] pieces   rows of each sequence in one pass at most
/// @param[in] rows     rows(i, begin, count): rows [begin, begin + count) of sequence i as floats,
///                     valid until the next call for i
/// @param[in] done     done(i, hidden): what the stack made of the next rows of sequence i,
///                     [count, d_model]
/// @throws argument_error for pieces below 1; what transformer::forward throws.
template <class B, class T, class KV, class Rows, class Done>
void stack_pass(const model::transformer<B, T, KV>& stack, std::span<const index_t> lengths,
                std::span<const index_t> pieces, Rows&& rows, Done&& done) {
  for (const index_t piece : pieces) {
    if (piece > 0) continue;
    throw argument_error("gmsa: chunk is " + std::to_string(piece) + ", expected 1 or more");
  }
  B& be = stack.backend();
  const index_t d = stack.config().d_model;
  std::vector<cache::gist_cache<B, KV>> caches;
  for (std::size_t i = 0; i < lengths.size(); ++i) caches.emplace_back(be, stack.cache_shape());
  workspace<B> scratch;
  buffer<T, B> hidden;
  while (true) {
    std::vector<std::size_t> active;
    std::vector<index_t> counts;
    std::vector<model::sequence_step<B, KV>> steps;
    index_t n = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const index_t begin = caches[i].next_position();
      const index_t count = std::min(pieces[i], lengths[i] - begin);
      if (count <= 0) continue;
      active.push_back(i);
      counts.push_back(count);
      steps.push_back({&caches[i], {}, rows(i, begin, count)});
      n += count;
    }
    if (n == 0) return;
    const std::size_t need = stack.workspace_size(steps);
    if (need > scratch.bytes()) scratch = workspace<B>(be, need + need / 4);
    if (hidden.size() < n * d) hidden = buffer<T, B>(be, n * d);
    const auto x = hidden.view({n, d});
    stack.forward(steps, x, scratch);
    index_t at = 0;
    for (std::size_t s = 0; s < steps.size(); ++s) {
      done(active[s], matrix_view<const T, space_of<B>>(x.rows(at, counts[s])));
      at += counts[s];
    }
  }
}

}  // namespace gistkv::gmsa
