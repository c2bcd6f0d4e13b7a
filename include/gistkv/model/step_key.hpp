// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include <gistkv/core/replay.hpp>
#include <gistkv/model/block.hpp>

/// What the layers of a step are told of its sequences, so that they can be told it again.

namespace gistkv::model {

/// Lists that all layers share. Their entries count where they lie in the backend's memory, and
/// that is where the next step writes its own.
template <class KV, MemorySpace Space>
void add_to_key(replay_key& key, const sequence_kv<KV, Space>& s) {
  key.add(s.count);
  key.add(s.spans.in_backend_memory);
  key.add(s.anchor_rows);
  key.add(s.local_rows);
  key.add(s.gist_rows);
  key.add(s.gist_rows.extent(0));
  key.add(s.inner_gists.begin);
  key.add(s.inner_gists.end);
}

/// The caches of one layer: where they are, and what of their lengths may count. A part that is
/// empty may be passed on as nothing; how the work is split may follow from the number of keys,
/// which must not be far from what it was.
template <class KV, MemorySpace Space>
void add_layer_to_key(replay_key& key, const sequence_kv<KV, Space>& s) {
  for (const auto& part : std::array{s.visible.shared, s.visible.own, s.visible.local}) {
    key.add(part.k);
    key.add(part.v);
  }
  const index_t n_shared = s.visible.shared.rows(), n_own = s.visible.own.rows();
  const auto n_keys = static_cast<std::uint64_t>(n_shared + n_own + s.visible.local.rows());
  key.add(n_shared);
  key.add(index_t{n_own > 0});
  key.add(index_t{s.visible.local.rows() > 0});
  key.add(static_cast<index_t>(std::bit_width(n_keys)));
}

}  // namespace gistkv::model
