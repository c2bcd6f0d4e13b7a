// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A backend that lacks a primitive is refused, and the diagnostic names the primitive.
// expect: rope
#include <gistkv/core/backend.hpp>

struct packed {};

template <class T>
struct without_rope {
  using space = gistkv::host_space;
  using element = T;
  using packed_weight = packed;
  template <class U>
  static constexpr bool supports = std::same_as<U, T>;
  static constexpr const char* name = "test";

  void* allocate(std::size_t) { return nullptr; }
  void deallocate(void*, std::size_t) noexcept {}
  void upload(void*, const void*, std::size_t) {}
  void download(void*, const void*, std::size_t) {}
  void copy(void*, const void*, std::size_t) {}
  void synchronize() {}

  packed pack(const gistkv::host_matrix&) { return {}; }
  void linear(auto, auto, const packed&) {}
  void matmul(auto, auto, auto, gistkv::matmul_options) {}
  void norm(auto, auto, auto, auto, gistkv::norm_options) {}
  void activation(auto, auto, auto, gistkv::activation_kind) {}
  void add(auto, auto, auto) {}
  void masked_softmax(auto, auto, gistkv::softmax_options, auto) {}
  void gather_rows(auto, auto, auto) {}
  void scatter_rows(auto, auto, auto) {}
};

template <class T>
struct complete : without_rope<T> {
  void rope(auto, auto, auto, gistkv::rope_options) {}
};

template <gistkv::Backend B>
void needs_a_backend(B&) {}

void with_complete(complete<float>& be) { needs_a_backend(be); }
void with_incomplete(without_rope<float>& be) { needs_a_backend(be); }  // rejected
