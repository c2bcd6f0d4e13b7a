// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv {

/// Owns n elements of T in a backend's memory. Move-only; a deep copy is named. Elements of a new
/// buffer are undefined. The backend must outlive it.
template <class T, Storage B>
class buffer {
 public:
  using space = space_of<B>;

  buffer() = default;

  /// @throws shape_error for n < 0, else what the backend throws.
  buffer(B& be, index_t n) : be_(&be), size_(n) {
    if (n < 0 || n > std::numeric_limits<index_t>::max() / static_cast<index_t>(sizeof(T))) {
      throw shape_error("buffer: " + std::to_string(n) + " elements cannot be allocated");
    }
    if (n > 0) data_ = static_cast<T*>(be.allocate(bytes()));
  }
  buffer(B& be, std::span<const T> host) : buffer(be, static_cast<index_t>(host.size())) {
    if (!host.empty()) be.upload(data_, host.data(), bytes());
  }
  buffer(buffer&& other) noexcept
      : be_(other.be_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    if (this != &other) {
      release();
      be_ = other.be_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  ~buffer() { release(); }

  buffer copy() const {
    if (be_ == nullptr) return {};
    buffer twin(*be_, size_);
    if (size_ > 0) be_->copy(twin.data_, data_, bytes());
    return twin;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  index_t size() const { return size_; }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }

  /// The first elements as a dense tensor. @throws shape_error if the buffer is too small.
  template <std::size_t Rank>
  tensor_view<T, Rank, space> view(const index_t (&extents)[Rank]) {
    return {data_, checked(extents)};
  }
  template <std::size_t Rank>
  tensor_view<const T, Rank, space> view(const index_t (&extents)[Rank]) const {
    return {data_, checked(extents)};
  }

  /// Waits for the backend and returns the elements.
  std::vector<T> to_host() const {
    std::vector<T> host(static_cast<std::size_t>(size_));
    if (size_ > 0) be_->download(host.data(), data_, bytes());
    return host;
  }

 private:
  template <std::size_t Rank>
  std::array<index_t, Rank> checked(const index_t (&extents)[Rank]) const {
    std::array<index_t, Rank> shape{};
    index_t n = 1;
    for (std::size_t d = 0; d < Rank; ++d) n *= shape[d] = extents[d];
    if (n > size_) {
      throw shape_error("buffer: a view of " + std::to_string(n) + " elements on " +
                        std::to_string(size_));
    }
    return shape;
  }
  void release() noexcept {
    if (data_ != nullptr) be_->deallocate(data_, bytes());
    data_ = nullptr;
  }

  B* be_ = nullptr;
  T* data_ = nullptr;
  index_t size_ = 0;
};

}  // namespace gistkv
