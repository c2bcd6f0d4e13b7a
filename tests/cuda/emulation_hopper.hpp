// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda/emulation.hpp>

/// What sm_90a adds to emulation.hpp: a warpgroup in step, the copy engine, its barriers, and
/// products of operands in shared memory that run until they are waited for. Descriptors and
/// swizzles are read as the PTX manual defines them ("Asynchronous warpgroup level matrix
/// instructions", "Tensors: swizzling modes").
///
/// The producer's warps are not in step: a group stands for the first one, which copies, and three
/// more, the last of the block, for the others. These are slow, so that one that waits where the
/// first warp does misses what it waits for.

namespace gistkv::emulation {

/// Three dimensions, innermost first, of which a box of (box_cols, box_rows, 1) is copied.
struct emulated_tensor_map {
  const void* data = nullptr;
  int cols = 0, rows = 0, heads = 0;
  index_t row_stride = 0, head_stride = 0;  ///< In elements of two bytes.
  int box_cols = 0, box_rows = 0;
};

/// Groups that stand for the producer's warps but the first.
inline constexpr int other_warps = 3;

struct hopper_block : block_state {
  using block_state::block_state;

  struct barrier_state {
    int expected = 0, pending = 0;
    std::int64_t bytes = 0;
    std::uint32_t phase = 0;
  };
  struct tile_copy {
    std::uint32_t to = 0;
    const emulated_tensor_map* map = nullptr;
    int col = 0, row = 0, head = 0;
  };

  void settle(barrier_state& b) {
    if (b.pending > 0 || b.bytes > 0) return;
    b.pending = b.expected;
    b.phase ^= 1U;
  }
  barrier_state& known(std::uint32_t at) {
    const auto found = barriers.find(at);
    if (found == barriers.end()) throw std::runtime_error("a barrier that nobody initialised");
    return found->second;
  }
  /// The copies under way to a barrier arrive.
  void land(std::uint32_t at) {
    auto coming = std::move(copies[at]);
    copies[at].clear();
    for (const tile_copy& c : coming) {
      const emulated_tensor_map& m = *c.map;
      for (int r = 0; r < m.box_rows; ++r) {
        for (int e = 0; e < m.box_cols; ++e) {
          std::uint16_t bits = 0;
          const int row = c.row + r, col = c.col + e;
          if (row >= 0 && row < m.rows && col < m.cols) {
            const auto* from = static_cast<const std::byte*>(m.data) +
                               2 * (c.head * m.head_stride + row * m.row_stride + col);
            std::memcpy(&bits, from, 2);
          }
          std::memcpy(memory() + swizzled(c.to + static_cast<std::uint32_t>(r * 128 + e * 2)),
                      &bits, 2);
        }
      }
      barrier_state& b = known(at);
      b.bytes -= index_t{m.box_rows} * m.box_cols * 2;
      settle(b);
    }
  }
  std::uint32_t swizzled(std::uint32_t address) const {
    return error == fault::swizzle_missing ? address : address ^ ((address >> 7 & 7U) << 4);
  }

  std::map<std::uint32_t, barrier_state> barriers;
  std::map<std::uint32_t, std::vector<tile_copy>> copies;
};

class warpgroup : public group<128> {
 public:
  using tensor_map = emulated_tensor_map;

  warpgroup(hopper_block& block, int number)
      : group<128>(block, number), hopper_(&block), leads_(number < block.n - other_warps) {}

  int index() const { return leads_ ? number() : 0; }
  /// f() by the first warp alone.
  template <class F>
  void first_warp(F&& f) {
    if (leads_) f();
  }

  template <int C>
  void begin_products(registers<float, C>&) {}
  template <int C, int A>
  void begin_products(registers<float, C>&, registers<std::uint32_t, A>&) {}
  template <class T, int C>
  void multiply_async(registers<float, C>& c, std::uint64_t a, std::uint64_t b, bool accumulate) {
    products_.back().push_back([this, &c, a, b, accumulate] {
      product<T>(
          c, 2 * C, accumulate, [&](int row, int k) { return rows_first<T>(a, row, k); },
          [&](int k, int col) { return rows_first<T>(b, col, k); });
    });
  }
  template <class T, int C, int A>
  void multiply_transposed_async(registers<float, C>& c, registers<std::uint32_t, A>& a, int a0,
                                 std::uint64_t b) {
    products_.back().push_back([this, &c, &a, a0, b] {
      float left[64][16];
      for (int lane = 0; lane < 128; ++lane) {
        for (int i = 0; i < 4; ++i) {
          const int row = lane / 32 * 16 + lane % 32 / 4 + i % 2 * 8;
          const int col = lane % 4 * 2 + i / 2 * 8;
          left[row][col] = half<T>(a(lane, a0 + i), 0);
          left[row][col + 1] = half<T>(a(lane, a0 + i), 1);
        }
      }
      product<T>(
          c, 2 * C, true, [&](int row, int k) { return left[row][k]; },
          [&](int k, int col) { return across<T>(b, k, col); });
    });
  }
  void commit_products() { products_.emplace_back(); }
  template <int N, int C>
  void await_products(registers<float, C>&) {
    std::size_t keep = N + 1;
    if (hopper_->error == fault::product_not_awaited) ++keep;
    while (products_.size() > keep) {
      for (const auto& run : products_.front()) run();
      products_.erase(products_.begin());
    }
  }

  template <int N, int C, int A>
  void await_products(registers<float, C>& c, registers<std::uint32_t, A>&) {
    await_products<N>(c);
  }

  void init_barrier(std::uint32_t at, int n_arrivals) {
    if (at % 8 != 0 || at + 8 > hopper_->bytes()) throw std::runtime_error("barrier: address");
    if (!leads_) return;
    hopper_->barriers[at] = {n_arrivals, n_arrivals, 0, 0};
  }
  void publish_barriers() {}
  void wait_barrier(std::uint32_t at, std::uint32_t parity) {
    hopper_block& block = *hopper_;
    const bool of_copies = block.known(at).expected == 1;
    if (block.error == (of_copies ? fault::arrival_not_awaited : fault::release_not_awaited)) {
      return block.order.yield(number());
    }
    for (int i = 0; !leads_ && i < 8; ++i) block.order.yield(number());
    block.order.wait(number(), [&block, at, parity] {
      block.land(at);
      return block.known(at).phase != parity;
    });
  }
  void expect_bytes(std::uint32_t at, std::uint32_t n_bytes) {
    if (!leads_) return;
    auto& b = hopper_->known(at);
    b.bytes += n_bytes;
    --b.pending;
    hopper_->settle(b);
  }
  void arrive(std::uint32_t at) {
    auto& b = hopper_->known(at);
    b.pending -= 4;
    hopper_->settle(b);
  }
  void copy_tile(std::uint32_t to, const emulated_tensor_map& map, int col, int row, int head,
                 std::uint32_t barrier) {
    const auto n_bytes = static_cast<std::size_t>(map.box_rows * map.box_cols * 2);
    if (to % 1024 != 0 || to + n_bytes > hopper_->bytes() || map.box_cols != 64) {
      throw std::runtime_error("copy_tile: address");
    }
    if (!leads_) return;
    std::memset(hopper_->memory() + to, 0xff, n_bytes);
    hopper_->copies[barrier].push_back({to, &map, col, row, head});
  }
  void sync_group() {}
  void publish_shared() {}
  template <int N>
  void fewer_registers() {}
  template <int N>
  void more_registers() {}

 private:
  struct operand {
    std::uint32_t begin, leading, stride;
  };
  operand operand_of(std::uint64_t descriptor) const {
    if (descriptor >> 62 != 1) throw std::runtime_error("descriptor: swizzle");
    const auto field = [&](int at) {
      return static_cast<std::uint32_t>(descriptor >> at & 0x3fffU) << 4;
    };
    operand o{field(0), field(16), field(32)};
    if (hopper_->error == fault::stride_of_other_panel) std::swap(o.leading, o.stride);
    return o;
  }
  template <class T>
  float element(std::uint32_t address) const {
    const std::uint32_t at = address ^ ((address >> 7 & 7U) << 4);
    if (at + 2 > hopper_->bytes()) throw std::runtime_error("operand: address");
    T value;
    std::memcpy(&value.bits, hopper_->memory() + at, 2);
    return static_cast<float>(value);
  }
  /// K-major: rows of 128 bytes, in groups of eight that lie `stride` apart.
  template <class T>
  float rows_first(std::uint64_t descriptor, int row, int k) const {
    const operand o = operand_of(descriptor);
    return element<T>(o.begin + static_cast<std::uint32_t>(row / 8) * o.stride +
                      static_cast<std::uint32_t>(row % 8 * 128 + k * 2));
  }
  /// MN-major: 64 columns lie side by side, the next 64 `leading` on; eight k, `stride` on.
  template <class T>
  float across(std::uint64_t descriptor, int k, int col) const {
    const operand o = operand_of(descriptor);
    return element<T>(o.begin + static_cast<std::uint32_t>(col / 64) * o.leading +
                      static_cast<std::uint32_t>(k / 8) * o.stride +
                      static_cast<std::uint32_t>(k % 8 * 128 + col % 64 * 2));
  }
  template <class T, int C, class Left, class Right>
  void product(registers<float, C>& c, int n, bool accumulate, Left&& left, Right&& right) {
    std::vector<float> b(static_cast<std::size_t>(16 * n));
    for (int k = 0; k < 16; ++k) {
      for (int col = 0; col < n; ++col) b[static_cast<std::size_t>(k * n + col)] = right(k, col);
    }
    for (int row = 0; row < 64; ++row) {
      float a[16];
      for (int k = 0; k < 16; ++k) a[k] = left(row, k);
      for (int col = 0; col < n; ++col) {
        const int lane = row / 16 * 32 + row % 8 * 4 + col % 8 / 2;
        const int e = col / 8 * 4 + row % 16 / 8 * 2 + col % 2;
        float sum = accumulate ? c(lane, e) : 0.0F;
        for (int k = 0; k < 16; ++k) sum += a[k] * b[static_cast<std::size_t>(k * n + col)];
        c(lane, e) = sum;
      }
    }
  }

  int number() const { return group<128>::index(); }

  hopper_block* hopper_;
  bool leads_;
  std::vector<std::vector<std::function<void()>>> products_ =
      std::vector<std::vector<std::function<void()>>>(1);
};

}  // namespace gistkv::emulation
