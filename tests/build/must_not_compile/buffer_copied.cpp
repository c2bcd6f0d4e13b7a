// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A deep copy costs memory and bandwidth, so it has a name.
// expect: use of deleted function|call to deleted constructor
#include <utility>

#include <gistkv/core/buffer.hpp>

template <gistkv::Storage B>
struct check {
  using floats = gistkv::buffer<float, B>;
  static floats moved(floats& b) { return std::move(b); }
  static floats copied(const floats& b) { return b.copy(); }
  static floats silently(const floats& b) { return b; }  // rejected
};

struct memory {
  using space = gistkv::host_space;
  static constexpr const char* name = "memory";
  void* allocate(std::size_t n) { return ::operator new(n); }
  void deallocate(void* p, std::size_t) noexcept { ::operator delete(p); }
  void upload(void*, const void*, std::size_t) {}
  void download(void*, const void*, std::size_t) {}
  void copy(void*, const void*, std::size_t) {}
  void synchronize() {}
};
template struct check<memory>;
