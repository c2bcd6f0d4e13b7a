// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <gistkv/core/thread_pool.hpp>

namespace gistkv {
namespace {

using parts = std::vector<std::pair<index_t, index_t>>;

parts parts_of(thread_pool& pool, index_t n, index_t grain) {
  std::mutex mutex;
  parts found;
  pool.for_ranges(n, grain, [&](index_t begin, index_t end) {
    const std::lock_guard lock(mutex);
    found.emplace_back(begin, end);
  });
  std::sort(found.begin(), found.end());
  return found;
}

TEST_CASE("parts cover the range once, at multiples of the grain, one a thread at most") {
  for (const int threads : {1, 2, 3, 7}) {
    thread_pool pool(threads);
    CHECK(pool.size() == threads);
    for (const index_t n : {1, 2, 3, 8, 63, 64, 1000}) {
      for (const index_t grain : {1, 4, 16, 5000}) {
        const parts found = parts_of(pool, n, grain);
        CHECK(found.size() <= static_cast<std::size_t>(threads));
        index_t at = 0;
        for (const auto& [begin, end] : found) {
          CHECK(begin == at);
          CHECK(end > begin);
          CHECK(begin % grain == 0);
          at = end;
        }
        CHECK(at == n);
        CHECK(parts_of(pool, n, grain) == found);
      }
    }
  }
}

TEST_CASE("an empty range calls nothing; a grain below 1 counts as 1") {
  thread_pool pool(3);
  CHECK(parts_of(pool, 0, 4).empty());
  CHECK(parts_of(pool, -5, 4).empty());
  CHECK(parts_of(pool, 3, 0).size() == 3);
}

TEST_CASE("tasks run side by side on all threads, each with a number of its own") {
  thread_pool pool(3);
  std::atomic<int> started{0};
  std::mutex mutex;
  std::vector<int> numbers;
  std::vector<std::thread::id> ids;
  pool.for_tasks(3, [&](index_t, int thread) {
    started.fetch_add(1);
    while (started.load() < 3) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    numbers.push_back(thread);
    ids.push_back(std::this_thread::get_id());
  });
  std::sort(numbers.begin(), numbers.end());
  CHECK(numbers == std::vector<int>{0, 1, 2});
  CHECK(std::find(ids.begin(), ids.end(), std::this_thread::get_id()) != ids.end());
  CHECK(thread_pool(0).size() >= 1);
}

TEST_CASE("a thread that is held up loses its tasks to the others") {
  thread_pool pool(2);
  std::atomic<index_t> done{0};
  pool.for_tasks(100, [&](index_t, int) {
    // Whoever gets here first waits until the other has done the rest.
    if (done.fetch_add(1) == 0) {
      while (done.load() < 100) std::this_thread::yield();
    }
  });
  CHECK(done.load() == 100);
}

TEST_CASE("more tasks than a ticket can count") {
  thread_pool pool(2);
  constexpr index_t n = (index_t{1} << 20) * 3 + 17;
  std::vector<std::uint8_t> times(static_cast<std::size_t>(n));
  pool.for_tasks(n, [&](index_t i, int) { ++times[static_cast<std::size_t>(i)]; });
  CHECK(std::count(times.begin(), times.end(), 1) == n);
}

TEST_CASE("a pool that fell asleep wakes up") {
  thread_pool pool(2);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> started{0};
    pool.for_tasks(2, [&](index_t, int) {
      started.fetch_add(1);
      while (started.load() < 2) std::this_thread::yield();
    });
    CHECK(started.load() == 2);
  }
}

TEST_CASE(
    "an exception of any part arrives at the caller, after all parts, and the pool lives on") {
  thread_pool pool(3);
  for (index_t thrower = 0; thrower < 3; ++thrower) {
    std::atomic<int> others{0};
    std::string text;
    try {
      pool.for_ranges(3, 1, [&](index_t begin, index_t) {
        if (begin == thrower) throw std::runtime_error("part " + std::to_string(begin));
        others.fetch_add(1);
      });
    } catch (const std::runtime_error& e) {
      text = e.what();
    }
    CHECK(text == "part " + std::to_string(thrower));
    CHECK(others.load() == 2);
    CHECK(parts_of(pool, 30, 1).size() == 3);
  }
  thread_pool single(1);
  CHECK_THROWS_AS(single.for_ranges(1, 1, [](index_t, index_t) { throw std::logic_error("x"); }),
                  std::logic_error);
}

TEST_CASE("if all parts throw, one exception arrives and none is left for the next call") {
  thread_pool pool(4);
  CHECK_THROWS_AS(pool.for_ranges(4, 1, [](index_t, index_t) { throw std::runtime_error("all"); }),
                  std::runtime_error);
  CHECK_NOTHROW(pool.for_ranges(4, 1, [](index_t, index_t) {}));
}

TEST_CASE("many short calls in a row") {
  thread_pool pool(2);
  std::atomic<index_t> sum{0};
  for (int i = 0; i < 20000; ++i) {
    pool.for_ranges(2, 1, [&](index_t begin, index_t end) { sum.fetch_add(end - begin); });
  }
  CHECK(sum.load() == 40000);
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
/// Makes a pool for which there is memory for a few stacks only. @returns what the process answers.
int starved_pool() {
  alarm(10);  // Ends what hangs.
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const std::uint64_t now = pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const rlimit most{now + (std::uint64_t{64} << 20), RLIM_INFINITY};
  if (setrlimit(RLIMIT_AS, &most) != 0) return 2;
  try {
    thread_pool pool(1000);
  } catch (const std::system_error&) {
    return 0;
  }
  return 1;
}

TEST_CASE("a pool that cannot have all its threads throws, and ends those it has") {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) _exit(starved_pool());
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif

TEST_CASE("pools come and go without work") {
  for (int i = 0; i < 200; ++i) {
    thread_pool pool(3);
    CHECK(pool.size() == 3);
  }
}

}  // namespace
}  // namespace gistkv
