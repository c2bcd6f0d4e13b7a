// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <gistkv/core/types.hpp>

namespace gistkv {

/// A fixed set of threads that share out tasks. Each task goes to the next thread that is free, the
/// calling one included, so a thread that a busy neighbour keeps off its core loses its tasks to
/// the others and holds them up by the one task that it is in. What a task is depends on the call
/// alone, never on who runs it, so results repeat. Workers spin for about a hundred microseconds,
/// longer than the gaps between the operations of a model, and then sleep. One call at a time.
class thread_pool {
 public:
  /// n_threads >= 1 counts the calling thread; 0: all that the machine has.
  /// @throws std::system_error if the system gives less.
  explicit thread_pool(int n_threads = 0) {
    if (n_threads <= 0) n_threads = static_cast<int>(std::thread::hardware_concurrency());
    try {
      for (int i = 1; i < n_threads; ++i) threads_.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();  // No destructor follows, and those that run hold on to this object.
      throw;
    }
  }
  ~thread_pool() { stop(); }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  /// Calls f(task, thread) for all tasks [0, n); `thread` < size() tells the threads apart, for
  /// memory that each has to itself. Returns when all are done; the first exception is rethrown
  /// here. Allocates: no.
  template <class F>
  void for_tasks(index_t n, F&& f) {
    if (n <= 0) return;
    if (n == 1 || threads_.empty()) {
      for (index_t i = 0; i < n; ++i) f(i, 0);
      return;
    }
    const index_t stride = (n + max_tasks - 1) / max_tasks;
    const auto strided = [&](index_t i, int thread) {
      for (index_t t = i * stride; t < std::min(n, (i + 1) * stride); ++t) f(t, thread);
    };
    // A plain function and a pointer to the closure: nothing is allocated a call.
    run((n + stride - 1) / stride,
        [](const void* closure, index_t i, int thread) {
          (*static_cast<const decltype(strided)*>(closure))(i, thread);
        },
        &strided);
  }

  /// Calls f(begin, end) for disjoint parts that cover [0, n), cut at multiples of `grain`, one a
  /// thread at most. The parts depend on n, grain and size() only.
  template <class F>
  void for_ranges(index_t n, index_t grain, F&& f) {
    if (n <= 0) return;
    grain = std::max<index_t>(grain, 1);
    const index_t n_grains = (n + grain - 1) / grain;
    const index_t parts = std::min<index_t>(size(), n_grains);
    for_tasks(parts, [&](index_t i, int) {
      const index_t begin = n_grains * i / parts * grain;
      const index_t end = std::min(n, n_grains * (i + 1) / parts * grain);
      f(begin, end);
    });
  }

 private:
  void stop() {
    stop_.store(true, std::memory_order_relaxed);
    publish(0);
    for (std::thread& t : threads_) t.join();
  }

  using task_function = void (*)(const void* closure, index_t task, int thread);

  // The ticket holds what a thread must know to take a task, in one word: [call | tasks | next].
  // Whoever moves `next` from i to i + 1 owns task i; until that task is done the call cannot end,
  // so function_ and closure_ stay what they are.
  static constexpr int task_bits = 20;
  static constexpr index_t max_tasks = (index_t{1} << task_bits) - 1;
  static constexpr std::uint64_t next_of(std::uint64_t ticket) { return ticket & max_tasks; }
  static constexpr std::uint64_t tasks_of(std::uint64_t ticket) {
    return (ticket >> task_bits) & max_tasks;
  }

  void run(index_t n, task_function function, const void* closure) {
    function_ = function;
    closure_ = closure;
    done_.store(0, std::memory_order_relaxed);
    publish(n);
    while (take(0)) {
    }
    for (int spin = 0; done_.load(std::memory_order_acquire) != n; ++spin) {
      if (spin < spin_limit) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

  void publish(index_t n) {
    const std::uint64_t call = (ticket_.load(std::memory_order_relaxed) >> (2 * task_bits)) + 1;
    ticket_.store(call << (2 * task_bits) | static_cast<std::uint64_t>(n) << task_bits,
                  std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    {
      const std::lock_guard lock(mutex_);  // A worker between its last look and its sleep.
    }
    wake_.notify_all();
  }

  /// Runs the next task, if there is one.
  bool take(int thread) {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    do {
      if (next_of(ticket) >= tasks_of(ticket)) return false;
    } while (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel,
                                            std::memory_order_acquire));
    try {
      function_(closure_, static_cast<index_t>(next_of(ticket)), thread);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void work(int thread) {
    int spin = 0;
    for (;;) {
      if (take(thread)) {
        spin = 0;
        continue;
      }
      if (stop_.load(std::memory_order_relaxed)) return;
      if (++spin < spin_limit) {
        pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] {
        const std::uint64_t ticket = ticket_.load(std::memory_order_seq_cst);
        return next_of(ticket) < tasks_of(ticket) || stop_.load(std::memory_order_relaxed);
      });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
      spin = 0;
    }
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  static constexpr int spin_limit = 3000;
  std::vector<std::thread> threads_;
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<index_t> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::exception_ptr error_;
  task_function function_ = nullptr;
  const void* closure_ = nullptr;
};

}  // namespace gistkv
