// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace gistkv::backends::onednn_detail {

/// Memory that only grows, 64-byte aligned; growing loses what it held. After the first call of a
/// size nothing is allocated any more.
class scratch {
 public:
  scratch() = default;
  scratch(scratch&& other) noexcept
      : memory_(std::move(other.memory_)), size_(std::exchange(other.size_, 0)) {}
  scratch& operator=(scratch&& other) noexcept {
    memory_ = std::move(other.memory_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  template <class T>
  T* get(std::size_t n) {
    const std::size_t bytes = n * sizeof(T);
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<std::byte*>(::operator new(bytes, alignment)));
      size_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

  /// What the last `get` gave.
  template <class T>
  T* data() {
    return reinterpret_cast<T*>(memory_.get());
  }
  template <class T>
  const T* data() const {
    return reinterpret_cast<const T*>(memory_.get());
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct release {
    void operator()(std::byte* p) const { ::operator delete(p, alignment); }
  };
  std::unique_ptr<std::byte, release> memory_;
  std::size_t size_ = 0;
};

}  // namespace gistkv::backends::onednn_detail
