// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>

namespace gistkv {

/// Scratch memory of hot paths: one block allocated beforehand, from which tensors are cut off and
/// given back in reverse order by a `scope`. Never allocates after construction.
template <Storage B>
class workspace {
 public:
  using space = space_of<B>;
  static constexpr std::size_t alignment = 64;

  workspace() = default;
  workspace(B& be, std::size_t n_bytes) : block_(be, static_cast<index_t>(n_bytes)) {}

  /// Bytes that `take` of n elements uses; sum these to size a workspace.
  template <class T>
  static constexpr std::size_t bytes_for(index_t n) {
    return (static_cast<std::size_t>(n) * sizeof(T) + alignment - 1) / alignment * alignment;
  }

  /// A dense tensor with undefined elements. @throws shape_error if the workspace is too small.
  template <class T, std::size_t Rank>
  tensor_view<T, Rank, space> take(const index_t (&extents)[Rank]) {
    std::array<index_t, Rank> shape{};
    index_t n = 1;
    for (std::size_t d = 0; d < Rank; ++d) n *= shape[d] = extents[d];
    const std::size_t need = bytes_for<T>(n);
    if (used_ + need > block_.bytes()) {
      throw shape_error("workspace: " + std::to_string(used_ + need) + " bytes needed, " +
                        std::to_string(block_.bytes()) + " allocated");
    }
    T* data = reinterpret_cast<T*>(block_.data() + used_);
    used_ += need;
    return {data, shape};
  }

  /// Gives back everything taken during its life.
  class scope {
   public:
    explicit scope(workspace& w) : workspace_(w), mark_(w.used_) {}
    ~scope() { workspace_.used_ = mark_; }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;

   private:
    workspace& workspace_;
    std::size_t mark_;
  };

  std::size_t bytes() const { return block_.bytes(); }

 private:
  buffer<std::byte, B> block_;
  std::size_t used_ = 0;
};

}  // namespace gistkv
