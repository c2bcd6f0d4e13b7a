// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// buffer and workspace, on a storage that counts.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/workspace.hpp>

namespace gistkv {
namespace {

struct counting_storage {
  using space = host_space;
  static constexpr std::string_view name = "counting";
  int allocations = 0;
  std::size_t live_bytes = 0;

  void* allocate(std::size_t n) {
    ++allocations;
    live_bytes += n;
    return ::operator new (n, std::align_val_t{64});
  }
  void deallocate(void* p, std::size_t n) noexcept {
    live_bytes -= n;
    ::operator delete (p, std::align_val_t{64});
  }
  void upload(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void download(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void copy(void* to, const void* from, std::size_t n) { std::memcpy(to, from, n); }
  void synchronize() {}
};
static_assert(Storage<counting_storage>);

using ints = buffer<int, counting_storage>;
static_assert(!std::is_copy_constructible_v<ints> && !std::is_copy_assignable_v<ints>);
static_assert(std::is_nothrow_move_constructible_v<ints> &&
              std::is_nothrow_move_assignable_v<ints>);

template <class Error, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST_CASE("a buffer owns, moves and gives back exactly what it took") {
  counting_storage be;
  {
    ints a(be, std::vector<int>{1, 2, 3});
    CHECK(be.live_bytes == 12);
    CHECK(a.to_host() == std::vector<int>{1, 2, 3});
    ints b = std::move(a);
    CHECK(a.size() == 0);
    CHECK(a.data() == nullptr);
    CHECK(b.to_host() == std::vector<int>{1, 2, 3});
    ints c(be, 5);
    CHECK(be.live_bytes == 32);
    c = std::move(b);
    CHECK(be.live_bytes == 12);
    CHECK(c.to_host() == std::vector<int>{1, 2, 3});
    ints& same = c;
    c = std::move(same);
    CHECK(c.size() == 3);
    CHECK(be.allocations == 2);
  }
  CHECK(be.live_bytes == 0);
}

TEST_CASE("copy is deep and named") {
  counting_storage be;
  ints a(be, std::vector<int>{1, 2, 3});
  ints b = a.copy();
  b.data()[0] = 9;
  CHECK(a.to_host() == std::vector<int>{1, 2, 3});
  CHECK(b.to_host() == std::vector<int>{9, 2, 3});
  CHECK(ints().copy().size() == 0);
}

TEST_CASE("an empty buffer allocates nothing") {
  counting_storage be;
  const ints none(be, 0);
  const ints from_nothing(be, std::vector<int>{});
  CHECK(be.allocations == 0);
  CHECK(none.to_host().empty());
  CHECK(none.view({0, 7}).empty());
}

TEST_CASE("buffers refuse sizes that cannot be and views that do not fit, with the numbers") {
  counting_storage be;
  CHECK_THROWS_AS(ints(be, -1), shape_error);
  CHECK_THROWS_AS(ints(be, std::numeric_limits<index_t>::max() / 2), shape_error);
  CHECK(be.allocations == 0);
  ints a(be, 12);
  CHECK(a.view({3, 4}).stride(0) == 4);
  CHECK(a.view({2, 2}).size() == 4);
  const std::string text = message_of<shape_error>([&] { a.view({3, 5}); });
  CHECK(text.find("15") != std::string::npos);
  CHECK(text.find("12") != std::string::npos);
}

TEST_CASE("a workspace hands out aligned, disjoint tensors and never allocates again") {
  counting_storage be;
  using space = workspace<counting_storage>;
  space w(be, space::bytes_for<float>(10) + space::bytes_for<double>(3));
  CHECK(space::bytes_for<float>(0) == 0);
  CHECK(space::bytes_for<float>(1) == 64);
  CHECK(space::bytes_for<float>(16) == 64);
  CHECK(space::bytes_for<float>(17) == 128);
  const int before = be.allocations;
  {
    const space::scope scope(w);
    const auto a = w.take<float>({2, 5});
    const auto b = w.take<double>({3});
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 64 == 0);
    CHECK(static_cast<void*>(b.data()) >= static_cast<void*>(a.data() + 10));
    CHECK(a.extents() == std::array<index_t, 2>{2, 5});
  }
  CHECK(be.allocations == before);
}

TEST_CASE("a workspace that is too small says how much was needed and there") {
  counting_storage be;
  workspace<counting_storage> w(be, 128);
  const auto first = w.take<float>({16});
  CHECK(first.size() == 16);
  const std::string text = message_of<shape_error>([&] { w.take<float>({17}); });
  CHECK(text.find("192") != std::string::npos);
  CHECK(text.find("128") != std::string::npos);
  // What failed took nothing.
  CHECK(w.take<float>({16}).data() == first.data() + 16);
  workspace<counting_storage> unset;
  CHECK_THROWS_AS(unset.take<int>({1}), shape_error);
  CHECK(unset.take<int>({0}).empty());
}

TEST_CASE("scopes give back in reverse order, also when an exception ends them") {
  counting_storage be;
  using space = workspace<counting_storage>;
  space w(be, 256);
  const auto outer = w.take<float>({16});
  float* inner = nullptr;
  try {
    const space::scope scope(w);
    inner = w.take<float>({32}).data();
    w.take<float>({32});
  } catch (const shape_error&) {
  }
  CHECK(inner == outer.data() + 16);
  CHECK(w.take<float>({32}).data() == inner);
  CHECK(w.bytes() == 256);
}

}  // namespace
}  // namespace gistkv
