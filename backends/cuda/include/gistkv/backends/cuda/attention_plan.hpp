// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gistkv/core/types.hpp>
#include <gistkv/mask/visible_spans.hpp>

/// What the attention kernels are told, and the arithmetic on indices that they share: which keys a
/// tile of queries visits, and where things lie in shared memory. Compiles for host and device.
///
/// A tile is the queries of some consecutive tokens with all heads of one KV head: row r belongs to
/// token r / group and head r % group, so that one tile of keys serves the whole group. Its keys
/// are those that any of its tokens sees, in blocks: local rows first, then the anchors. Most
/// blocks are seen whole by every token and need no mask; the others compare each key with the two
/// spans of the row's token. No mask is ever stored.

namespace gistkv::backends::cuda_detail {

template <class V>
GISTKV_HD constexpr V least(V a, V b) {
  return a < b ? a : b;
}
template <class V>
GISTKV_HD constexpr V greatest(V a, V b) {
  return a > b ? a : b;
}
/// f(0), ..., f(N - 1), each a copy of its own: registers cannot be indexed by a variable.
template <int N, class F>
GISTKV_HD void unrolled(F&& f) {
  if constexpr (N > 0) {
    unrolled<N - 1>(f);
    f(N - 1);
  }
}
GISTKV_HD constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Keys and values of consecutive rows of all KV heads: row r of head h at h * head + r * row.
template <class KV>
struct attention_part {
  const KV* k = nullptr;
  const KV* v = nullptr;
  index_t k_head = 0, k_row = 0, v_head = 0, v_row = 0;
  std::int32_t rows = 0;
};

/// The order in which parts are visited.
inline constexpr int local_part = 0, shared_part = 1, own_part = 2, n_parts = 3;

/// One sequence of a launch; strides count elements. Spans are in the memory of the kernel.
template <class T, class KV = T>
struct attention_sequence {
  const T* q = nullptr;
  T* o = nullptr;
  T* lse = nullptr;
  index_t q_token = 0, q_head = 0, o_token = 0, o_head = 0, lse_token = 0, lse_head = 0;
  attention_part<KV> parts[n_parts];
  const visible_spans* spans = nullptr;
  std::int32_t n_tokens = 0;
  std::int32_t first_tile = 0;  ///< Tiles of the sequences before it.
};

/// Sequences that go into one launch, as the parameter of a kernel.
inline constexpr int max_sequences = 8;
template <class T, class KV = T>
struct attention_batch {
  attention_sequence<T, KV> sequences[max_sequences];
  std::int32_t n_sequences = 0;
  std::int32_t n_tiles = 0;  ///< Of all sequences, of one KV head.
  std::int32_t n_kv_heads = 0;
  std::int32_t group = 0;
  std::int32_t tile_tokens = 0;  ///< Tokens of a tile.
  float scale = 0.0F;            ///< > 0
};

/// One tile of the launch.
struct attention_item {
  int sequence = 0;
  int kv_head = 0;
  int begin = 0;  ///< Tokens [begin, begin + count) of the sequence.
  int count = 0;
};

/// Item number `i` of n_tiles * n_kv_heads. The last tiles of a sequence see most and go first, so
/// that no long one is left over at the end.
template <class T, class KV>
GISTKV_HD attention_item item_of(const attention_batch<T, KV>& batch, int i) {
  attention_item item;
  item.kv_head = i % batch.n_kv_heads;
  const int tile = i / batch.n_kv_heads;
  while (item.sequence + 1 < batch.n_sequences &&
         batch.sequences[item.sequence + 1].first_tile <= tile) {
    ++item.sequence;
  }
  const attention_sequence<T, KV>& s = batch.sequences[item.sequence];
  const int n_tiles = ceil_div(s.n_tokens, batch.tile_tokens);
  item.begin = (n_tiles - 1 - (tile - s.first_tile)) * batch.tile_tokens;
  item.count = least(batch.tile_tokens, s.n_tokens - item.begin);
  return item;
}

/// The least and the greatest of what some tokens see.
struct tile_bounds {
  int anchors_least = INT32_MAX, anchors_greatest = 0;
  int begin_least = INT32_MAX, begin_greatest = INT32_MIN;
  int end_least = INT32_MAX, end_greatest = INT32_MIN;

  GISTKV_HD constexpr void add(const visible_spans& s) {
    anchors_least = least(anchors_least, s.anchors);
    anchors_greatest = greatest(anchors_greatest, s.anchors);
    const bool sees_local = s.local_begin < s.local_end;
    // A token that sees no local row widens nothing, and no block is whole for it.
    begin_greatest = greatest(begin_greatest, sees_local ? s.local_begin : INT32_MAX);
    end_least = least(end_least, sees_local ? s.local_end : INT32_MIN);
    if (!sees_local) return;
    begin_least = least(begin_least, s.local_begin);
    end_greatest = greatest(end_greatest, s.local_end);
  }
};

/// Consecutive rows of one part.
struct key_block {
  int part = 0;
  int row = 0;         ///< Within the part.
  int rows = 0;        ///< Up to the size of a block.
  int anchor = 0;      ///< Number of the first row among all anchors, if it is one.
  bool whole = false;  ///< Every token of the tile sees every key of a full block.

  /// Does a token with these spans see key `c` of the block?
  GISTKV_HD constexpr bool sees(const visible_spans& s, int c) const {
    if (c >= rows) return false;
    if (part == local_part) return row + c >= s.local_begin && row + c < s.local_end;
    return anchor + c < s.anchors;
  }
};

/// The blocks of Keys rows that a tile visits.
template <int Keys>
struct key_blocks {
  tile_bounds bounds;
  int local_begin = 0;
  int n_local = 0, n_shared = 0, n_own = 0;  ///< Rows of each part.
  int local_blocks = 0, shared_blocks = 0, own_blocks = 0;

  GISTKV_HD constexpr key_blocks(const tile_bounds& seen, int shared_rows) : bounds(seen) {
    if (seen.begin_least < seen.end_greatest) {
      local_begin = seen.begin_least;
      n_local = seen.end_greatest - seen.begin_least;
    }
    n_shared = least(shared_rows, seen.anchors_greatest);
    n_own = seen.anchors_greatest - n_shared;
    local_blocks = ceil_div(n_local, Keys);
    shared_blocks = ceil_div(n_shared, Keys);
    own_blocks = ceil_div(n_own, Keys);
  }

  GISTKV_HD constexpr int count() const { return local_blocks + shared_blocks + own_blocks; }

  GISTKV_HD constexpr key_block at(int b) const {
    key_block block;
    if (b < local_blocks) {
      const int row = b * Keys;
      block.row = local_begin + row;
      block.rows = least(Keys, n_local - row);
      block.whole = block.row >= bounds.begin_greatest && block.row + Keys <= bounds.end_least;
      return block;
    }
    b -= local_blocks;
    const bool shared = b < shared_blocks;
    block.part = shared ? shared_part : own_part;
    block.row = (shared ? b : b - shared_blocks) * Keys;
    block.rows = least(Keys, (shared ? n_shared : n_own) - block.row);
    block.anchor = shared ? block.row : n_shared + block.row;
    block.whole = block.rows == Keys && block.anchor + Keys <= bounds.anchors_least;
    return block;
  }
};

/// Byte of 16-byte piece `piece` of row `row` in a tile of rows of `pieces` pieces. The pieces of a
/// row are permuted by its number, so that eight rows' pieces of one column, which ldmatrix reads
/// together, lie in different banks.
template <int Pieces>
GISTKV_HD constexpr std::uint32_t tile_offset(int row, int piece) {
  return static_cast<std::uint32_t>((row * Pieces + (piece ^ (row & 7))) * 16);
}

/// Where mma keeps its results: element e of a lane's share of a [16, n] tile (m16n8k16), or, with
/// 128 lanes, of a [64, n] tile (wgmma).
GISTKV_HD constexpr int fragment_row(int lane, int e) {
  return lane / 32 * 16 + lane % 32 / 4 + e / 2 % 2 * 8;
}
GISTKV_HD constexpr int fragment_col(int lane, int e) { return e / 4 * 8 + lane % 4 * 2 + e % 2; }

/// What the columns of the fragments stand for, where keys and values are read as they lie.
struct natural_order {
  /// First of the two dimensions of a query in pair `e` of a lane's left operand.
  GISTKV_HD static constexpr int query_dim(int lane, int e) { return fragment_col(lane, 4 * e); }
  /// Key of a block whose score is element `e`.
  GISTKV_HD static constexpr int key(int lane, int e) { return fragment_col(lane, e); }
  /// Dimension of the result in element `e`.
  GISTKV_HD static constexpr int result_dim(int lane, int e) { return fragment_col(lane, e); }
};

/// The row and the 16-byte piece whose address lane `lane` gives to ldmatrix, relative to a corner
/// of the tile: four 8 x 8 matrices, first down the rows, then to the right...
GISTKV_HD constexpr int rows_first_row(int lane) { return lane % 16; }
GISTKV_HD constexpr int rows_first_piece(int lane) { return lane / 16; }
/// ... or first to the right, then down.
GISTKV_HD constexpr int pieces_first_row(int lane) { return lane / 16 * 8 + lane % 8; }
GISTKV_HD constexpr int pieces_first_piece(int lane) { return lane / 8 % 2; }

}  // namespace gistkv::backends::cuda_detail
