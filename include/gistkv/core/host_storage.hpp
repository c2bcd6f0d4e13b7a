// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

#include <gistkv/core/tensor_view.hpp>

namespace gistkv {

/// Base of a backend whose memory is that of the host and whose calls are done when they return:
/// all of the tier `Storage` but the name.
struct host_storage {
  using space = host_space;
  static constexpr std::align_val_t alignment{64};

  void* allocate(std::size_t n_bytes) { return ::operator new(n_bytes, alignment); }
  void deallocate(void* p, std::size_t) noexcept { ::operator delete(p, alignment); }
  void upload(void* to, const void* from, std::size_t n_bytes) { std::memcpy(to, from, n_bytes); }
  void download(void* to, const void* from, std::size_t n_bytes) { std::memcpy(to, from, n_bytes); }
  void copy(void* to, const void* from, std::size_t n_bytes) { std::memcpy(to, from, n_bytes); }
  void synchronize() {}
};

}  // namespace gistkv
