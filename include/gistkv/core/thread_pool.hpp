// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// A fixed set of threads that split ranges evenly. The parts depend on the range and the number of
/// threads only, so results repeat. Workers spin for about a microsecond and then sleep: a busy
/// neighbour on the machine costs its share and not more. One call at a time.
class thread_pool {
 public:
  /// n_threads >= 1 counts the calling thread; 0: all that the machine has.
  explicit thread_pool(int n_threads = 0) {
    if (n_threads <= 0) n_threads = static_cast<int>(std::thread::hardware_concurrency());
    n_threads = std::max(n_threads, 1);
    errors_.resize(static_cast<std::size_t>(n_threads));
    for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i] { work(i); });
  }
  ~thread_pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  /// Calls f(begin, end) for disjoint parts that cover [0, n), cut at multiples of `grain`.
  /// Returns when all are done; an exception of any part is rethrown here.
  template <class F>
  void for_ranges(index_t n, index_t grain, F&& f) {
    if (n <= 0) return;
    grain = std::max<index_t>(grain, 1);
    const index_t n_grains = (n + grain - 1) / grain;
    const index_t parts = std::min<index_t>(size(), n_grains);
    auto part = [&](index_t i) {
      const index_t begin = n_grains * i / parts * grain;
      const index_t end = std::min(n, n_grains * (i + 1) / parts * grain);
      f(begin, end);
    };
    if (parts == 1) return part(0);
    // A plain function and a pointer to the closure: nothing is allocated a call.
    run(
        parts,
        [](const void* closure, index_t i) { (*static_cast<const decltype(part)*>(closure))(i); },
        &part);
  }

 private:
  using part_function = void (*)(const void* closure, index_t part);

  void run(index_t parts, part_function function, const void* closure) {
    parts_ = parts;
    function_ = function;
    closure_ = closure;
    pending_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    call(0);
    for (int spin = 0; pending_.load(std::memory_order_acquire) != 0; ++spin) {
      if (spin > spin_limit) std::this_thread::yield();
    }
    std::exception_ptr first;
    for (std::exception_ptr& e : errors_) {
      if (std::exception_ptr thrown = std::exchange(e, nullptr); thrown && !first) first = thrown;
    }
    if (first) std::rethrow_exception(first);
  }
  void call(int i) noexcept {
    if (i >= parts_) return;
    try {
      function_(closure_, i);
    } catch (...) {
      errors_[static_cast<std::size_t>(i)] = std::current_exception();
    }
  }
  void work(int i) {
    unsigned seen = 0;
    for (;;) {
      for (int spin = 0; spin < spin_limit; ++spin) {
        if (generation_.load(std::memory_order_acquire) != seen) break;
      }
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      call(i);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  static constexpr int spin_limit = 2000;
  std::vector<std::thread> threads_;
  std::vector<std::exception_ptr> errors_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> pending_{0};
  bool stop_ = false;
  index_t parts_ = 0;
  part_function function_ = nullptr;
  const void* closure_ = nullptr;
};

}  // namespace gistkv
