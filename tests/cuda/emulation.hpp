// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/backends/cuda/attention_plan.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/types.hpp>

/// One block of GPU threads on the host, for kernels that are written on a group G (see
/// attention_softmax.hpp): registers of all lanes, shared memory, the matrix unit fragment by
/// fragment as the PTX manual defines it, copies that land as late as they may.
///
/// Every group is a thread of the host, of which one runs at a time; which one goes on is drawn at
/// every barrier and now and then between, so that a missing barrier shows. Shared memory is NaN
/// until something is stored, and again from the start of a copy until it is waited for.

namespace gistkv::emulation {

using namespace backends::cuda_detail;

/// An error in a kernel, by what the machine does then in place of what the kernel asks for.
enum class fault {
  none,
  barrier_missing,          ///< Warps do not wait for one another.
  copy_not_awaited,         ///< One group of copies fewer is waited for.
  values_not_transposed,    ///< V is read as K is.
  right_operand_swapped,    ///< The two halves of 16 keys or dimensions change places.
  left_operand_off_by_one,  ///< The product takes the left operand of the next 16 columns.
  maximum_of_pairs,         ///< The greatest score is sought in two of a row's four lanes.
  sum_of_pairs,             ///< So is the sum.
  rest_not_zeroed,          ///< Rows behind the last of a part are whatever was there.
  bounds_of_first_lane,     ///< A tile visits what its first token sees.
  maximum_ignored,          ///< Nothing is subtracted: large scores overflow.
  // Of the machine of emulation_hopper.hpp.
  arrival_not_awaited,    ///< Nobody waits for the copy engine.
  release_not_awaited,    ///< The copy engine does not wait for who still reads.
  product_not_awaited,    ///< One group of products fewer is waited for.
  swizzle_missing,        ///< The copy engine writes rows as they are.
  stride_of_other_panel,  ///< Descriptors' two strides change places.
};

/// Lets one of several threads run at a time, in an order that a seed draws.
class turns {
 public:
  turns(int n, std::uint64_t seed) : random_(seed), state_(static_cast<std::size_t>(n), ready) {
    for (int i = 0; i < n; ++i) wake_.push_back(std::make_unique<std::condition_variable>());
  }

  /// Waits for the first turn.
  void begin(int me) {
    std::unique_lock lock(mutex_);
    wait_for_turn(me, lock);
  }
  void start() {
    std::unique_lock lock(mutex_);
    pass_on();
  }
  /// Lets another one go on, perhaps.
  void yield(int me) {
    std::unique_lock lock(mutex_);
    pass_on();
    wait_for_turn(me, lock);
  }
  /// Goes on when `open` says so.
  template <class F>
  void wait(int me, F&& open) {
    std::unique_lock lock(mutex_);
    waiting_for_[static_cast<std::size_t>(me)] = std::forward<F>(open);
    at(me) = waiting;
    pass_on();
    wait_for_turn(me, lock);
  }
  /// Whatever was waited for may have come.
  void end(int me, std::exception_ptr error = nullptr) {
    std::unique_lock lock(mutex_);
    at(me) = done;
    if (error && !error_) error_ = error;
    if (error) stop();
    pass_on();
  }
  std::exception_ptr error() const { return error_; }
  random_generator& random() { return random_; }

 private:
  enum what { ready, waiting, done };
  what& at(int i) { return state_[static_cast<std::size_t>(i)]; }

  void pass_on() {
    std::vector<int> may;
    bool all_done = true;
    for (int i = 0; i < static_cast<int>(state_.size()); ++i) {
      if (at(i) == waiting && (stopped_ || waiting_for_[static_cast<std::size_t>(i)]()))
        at(i) = ready;
      if (at(i) == ready) may.push_back(i);
      all_done = all_done && at(i) == done;
    }
    if (all_done) return;
    if (may.empty()) {
      if (!error_) error_ = std::make_exception_ptr(std::runtime_error("all groups wait"));
      stop();
      return pass_on();
    }
    turn_ = may[static_cast<std::size_t>(random_.below(static_cast<index_t>(may.size())))];
    wake_[static_cast<std::size_t>(turn_)]->notify_one();
  }
  void stop() { stopped_ = true; }
  void wait_for_turn(int me, std::unique_lock<std::mutex>& lock) {
    wake_[static_cast<std::size_t>(me)]->wait(lock, [&] { return turn_ == me; });
    if (stopped_) throw std::runtime_error("the block was stopped");
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<std::condition_variable>> wake_;
  random_generator random_;
  std::vector<what> state_;
  std::vector<std::function<bool()>> waiting_for_ = std::vector<std::function<bool()>>(64);
  std::exception_ptr error_;
  int turn_ = -1;
  bool stopped_ = false;
};

/// What the groups of a block share.
struct block_state {
  block_state(int n_groups, std::size_t shared_bytes, std::uint64_t seed, fault planted)
      : order(n_groups, seed),
        n(n_groups),
        shared(shared_bytes / 8 + 1, ~std::uint64_t{0}),
        error(planted) {}

  std::byte* memory() { return reinterpret_cast<std::byte*>(shared.data()); }
  std::size_t bytes() const { return shared.size() * 8; }
  void barrier(int me) {
    if (error == fault::barrier_missing) return order.yield(me);
    const int mine = generation;
    if (++arrived == n) {
      arrived = 0;
      ++generation;
    }
    order.wait(me, [this, mine] { return generation != mine; });
  }

  turns order;
  int n;
  std::vector<std::uint64_t> shared;
  fault error;
  int arrived = 0;
  int generation = 0;
};

/// A group of `Lanes` lanes in step.
template <int Lanes>
class group {
 public:
  static constexpr int lanes = Lanes;

  template <class V, int N>
  struct registers {
    V values[static_cast<std::size_t>(Lanes)][static_cast<std::size_t>(N)] = {};
    V& operator()(int lane, int i) {
      if (lane < 0 || lane >= Lanes || i < 0 || i >= N) throw std::out_of_range("register");
      return values[lane][i];
    }
  };

  group(block_state& block, int index) : block_(&block), index_(index) {}

  int index() const { return index_; }
  template <class F>
  void each(F&& f) {
    for (int lane = 0; lane < Lanes; ++lane) f(lane);
  }

  static float minus_infinity() { return -std::numeric_limits<float>::infinity(); }
  static float exp2(float x) { return std::exp2(x); }
  static float log(float x) { return std::log(x); }
  static float rsqrt(float x) { return 1.0F / std::sqrt(x); }
  static void rotation(std::int32_t position, float frequency, float& sine, float& cosine) {
    const double angle = double{frequency} * position;
    sine = static_cast<float>(std::sin(angle));
    cosine = static_cast<float>(std::cos(angle));
  }
  static float activate(float x, activation_kind kind) {
    switch (kind) {
      case activation_kind::silu:
        return x / (1.0F + std::exp(-x));
      case activation_kind::gelu:
        return 0.5F * x * std::erfc(-0.70710678F * x);
      case activation_kind::gelu_tanh:
        return x / (1.0F + std::exp(-1.59576912F * (x + 0.044715F * x * x * x)));
    }
    return 0.0F;
  }
  template <class T>
  static float to_float(T x) {
    if constexpr (std::is_same_v<T, q8>) {
      return static_cast<float>(x.level);
    } else {
      return static_cast<float>(x);
    }
  }
  template <class T>
  static std::uint32_t pack(float low, float high) {
    return T(low).bits | static_cast<std::uint32_t>(T(high).bits) << 16;
  }
  template <class T>
  static std::uint32_t pack_levels(std::uint32_t x, int a, std::uint32_t y, int b) {
    const auto level = [](std::uint32_t word, int byte) {
      return static_cast<float>(static_cast<std::int8_t>(word >> (8 * byte) & 0xffU));
    };
    return pack<T>(level(x, a), level(y, b));
  }
  template <class T>
  static std::uint32_t load_pair(const T* from) {
    std::uint32_t pair = 0;
    if (reinterpret_cast<std::uintptr_t>(from) % 4 != 0) throw std::runtime_error("alignment");
    std::memcpy(&pair, from, 4);
    return pair;
  }
  template <class T, class F>
  static void load_words(const T* from, F&& f) {
    std::uint32_t words[4];
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) throw std::runtime_error("alignment");
    std::memcpy(words, from, 16);
    for (int i = 0; i < 4; ++i) f(i, words[i]);
  }
  template <class T>
  static void load_vector(const T* from, std::uint32_t (&words)[4]) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) throw std::runtime_error("alignment");
    std::memcpy(words, from, 16);
  }
  template <class T>
  static void store_vector(T* to, const std::uint32_t (&words)[4]) {
    if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0) throw std::runtime_error("alignment");
    std::memcpy(static_cast<void*>(to), words, 16);
  }
  template <class T>
  static void store_pair(T* to, std::uint32_t pair) {
    if (reinterpret_cast<std::uintptr_t>(to) % 4 != 0) throw std::runtime_error("alignment");
    std::memcpy(static_cast<void*>(to), &pair, 4);
  }
  template <class T>
  static void store(T* to, float value) {
    *to = T(value);
  }

  template <int N>
  void quad_max(registers<float, N>& x) {
    if (block_->error == fault::maximum_ignored) {
      each([&](int lane) {
        for (int i = 0; i < N; ++i) x(lane, i) = x(lane, i) == minus_infinity() ? x(lane, i) : 0.0F;
      });
      return;
    }
    reduce_quads(x, block_->error == fault::maximum_of_pairs,
                 [](float a, float b) { return std::max(a, b); });
  }
  template <int N>
  void quad_sum(registers<float, N>& x) {
    reduce_quads(x, block_->error == fault::sum_of_pairs, [](float a, float b) { return a + b; });
  }
  void warp_max(registers<float, 1>& x) {
    float all = x(0, 0);
    for (int lane = 1; lane < Lanes; ++lane) all = std::max(all, x(lane, 0));
    each([&](int lane) { x(lane, 0) = all; });
  }
  template <class V>
  void warp_sum(registers<V, 1>& x) {
    V all = 0;
    for (int lane = 0; lane < Lanes; ++lane) all += x(lane, 0);
    each([&](int lane) { x(lane, 0) = all; });
  }
  template <class V>
  V from_lane(registers<V, 1>& x, int lane) {
    return x(lane, 0);
  }
  template <class V, int N, class M>
  int least_of(registers<V, N>& x, int M::*member) {
    return over_lanes(x, member, [](int a, int b) { return std::min(a, b); });
  }
  template <class V, int N, class M>
  int greatest_of(registers<V, N>& x, int M::*member) {
    return over_lanes(x, member, [](int a, int b) { return std::max(a, b); });
  }

  /// mma.sync.m16n8k16: c += a b.
  template <class T, int C, int A, int B>
  void multiply(registers<float, C>& c, int c0, registers<std::uint32_t, A>& a, int a0,
                registers<std::uint32_t, B>& b, int b0) {
    static_assert(Lanes == 32);
    const bool swapped = block_->error == fault::right_operand_swapped;
    if (swapped && B > 2) b0 ^= 2;
    if (block_->error == fault::left_operand_off_by_one) a0 = (a0 + 4) % A;
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t bits = a(lane, a0 + i);
        const int row = lane / 4 + i % 2 * 8, col = lane % 4 * 2 + i / 2 * 8;
        left[row][col] = half<T>(bits, 0);
        left[row][col + 1] = half<T>(bits, 1);
      }
      for (int i = 0; i < 2; ++i) {
        const std::uint32_t bits = b(lane, b0 + (swapped && B == 2 ? 1 - i : i));
        const int row = lane % 4 * 2 + i * 8, col = lane / 4;
        right[row][col] = half<T>(bits, 0);
        right[row + 1][col] = half<T>(bits, 1);
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
        float sum = c(lane, c0 + i);
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][col];
        c(lane, c0 + i) = sum;
      }
    }
  }

  /// ldmatrix.x4: register i of lane l is elements 2 (l % 4), + 1 of row l / 4 of matrix i.
  template <class F>
  void load_matrices(registers<std::uint32_t, 4>& to, F&& address) {
    maybe_yield();
    for (int i = 0; i < 4; ++i) {
      for (int lane = 0; lane < 32; ++lane) {
        to(lane, i) = word(address(8 * i + lane / 4), lane % 4);
      }
    }
  }
  /// ldmatrix.x4.trans: elements of column l / 4, rows 2 (l % 4), + 1.
  template <class F>
  void load_matrices_transposed(registers<std::uint32_t, 4>& to, F&& address) {
    if (block_->error == fault::values_not_transposed) return load_matrices(to, address);
    maybe_yield();
    for (int i = 0; i < 4; ++i) {
      for (int lane = 0; lane < 32; ++lane) {
        std::uint32_t pair = 0;
        for (int e = 0; e < 2; ++e) {
          const std::uint32_t w = word(address(8 * i + lane % 4 * 2 + e), lane / 8);
          pair |= (w >> (lane / 4 % 2 * 16) & 0xffffU) << (16 * e);
        }
        to(lane, i) = pair;
      }
    }
  }

  /// cp.async of n_bytes, and zeros up to 16.
  void copy_async(std::uint32_t to, const void* from, int n_bytes) {
    if (to % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0 ||
        to + 16 > block_->bytes()) {
      throw std::runtime_error("copy_async: address");
    }
    std::memset(block_->memory() + to, 0xff, 16);
    if (n_bytes < 0 || n_bytes > 16) throw std::runtime_error("copy_async: size");
    if (block_->error == fault::rest_not_zeroed && n_bytes == 0) return;
    groups_.back().push_back({to, from, static_cast<std::size_t>(n_bytes)});
  }
  void commit_copies() { groups_.emplace_back(); }
  template <int N>
  void wait_copies() {
    std::size_t keep = N + 1;  // The last one is not committed.
    if (block_->error == fault::copy_not_awaited) ++keep;
    while (groups_.size() > keep) {
      for (const copy& c : groups_.front()) {
        std::byte* to = block_->memory() + c.to;
        std::memset(to, 0, 16);
        if (c.n_bytes > 0) std::memcpy(to, c.from, c.n_bytes);
      }
      groups_.erase(groups_.begin());
    }
  }

  void sync_block() { block_->barrier(index_); }
  void sync_warp() {}
  template <class V>
  V* shared(std::uint32_t offset) {
    return reinterpret_cast<V*>(block_->memory() + offset);
  }
  void publish() {}
  unsigned int count_up(unsigned int* counter) { return (*counter)++; }

 protected:
  struct copy {
    std::uint32_t to;
    const void* from;
    std::size_t n_bytes;
  };

  template <class T>
  static float half(std::uint32_t bits, int which) {
    T value;
    value.bits = static_cast<std::uint16_t>(bits >> (16 * which));
    return static_cast<float>(value);
  }
  std::uint32_t word(std::uint32_t address, int i) {
    if (address % 16 != 0 || address + 16 > block_->bytes()) {
      throw std::runtime_error("load_matrices: address");
    }
    std::uint32_t bits = 0;
    std::memcpy(&bits, block_->memory() + address + 4 * i, 4);
    return bits;
  }
  template <int N, class F>
  void reduce_quads(registers<float, N>& x, bool pairs_only, F&& combine) {
    for (int lane = 0; lane < Lanes; lane += 4) {
      for (int i = 0; i < N; ++i) {
        float y[4];
        for (int q = 0; q < 4; ++q) y[q] = x(lane + q, i);
        for (int q = 0; q < 4; ++q) {
          float all = combine(y[q], y[q ^ 1]);
          if (!pairs_only) all = combine(all, combine(y[q ^ 2], y[q ^ 3]));
          x(lane + q, i) = all;
        }
      }
    }
  }
  template <class V, int N, class M, class F>
  int over_lanes(registers<V, N>& x, int M::*member, F&& combine) {
    int all = x(0, 0).*member;
    if (block_->error == fault::bounds_of_first_lane) return all;
    for (int lane = 1; lane < Lanes; ++lane) all = combine(all, x(lane, 0).*member);
    return all;
  }
  void maybe_yield() {
    if (block_->order.random().below(64) == 0) block_->order.yield(index_);
  }

  block_state* block_;
  int index_;
  std::vector<std::vector<copy>> groups_ = std::vector<std::vector<copy>>(1);
};

/// Runs kernel(group) for every group of a block of threads.
template <class Group = group<32>, class Block = block_state, class Kernel>
void run_block(int n_groups, std::size_t shared_bytes, std::uint64_t seed, fault planted,
               Kernel&& kernel) {
  Block block(n_groups, shared_bytes, seed, planted);
  std::vector<std::thread> threads;
  for (int i = 0; i < n_groups; ++i) {
    threads.emplace_back([&, i] {
      try {
        block.order.begin(i);
        Group w(block, i);
        kernel(w);
        block.order.end(i);
      } catch (...) {
        block.order.end(i, std::current_exception());
      }
    });
  }
  block.order.start();
  for (std::thread& t : threads) t.join();
  if (block.order.error()) std::rethrow_exception(block.order.error());
}

}  // namespace gistkv::emulation
