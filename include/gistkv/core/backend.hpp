// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include <gistkv/core/attention_mask.hpp>
#include <gistkv/core/host_matrix.hpp>
#include <gistkv/core/op_options.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/types.hpp>

/// The whole contract between the library and a backend, in three tiers: `Storage` (a name and six
/// calls), `Computes<B, T>` (nine primitives on elements of T) and the fused paths a backend
/// declares by flags of `no_native`. Everything else (attention, block, cache) is composed.
///
/// A backend is an object for one calling thread at a time. It owns its handles and threads, and
/// owns or borrows a device's stream. Calls may be asynchronous, in order on one stream;
/// `synchronize` waits. Arguments arrive checked by the front doors of ops/; a backend reports only
/// failures of its own, as backend_error. Primitives never allocate backend memory.

namespace gistkv {

template <class B>
using space_of = typename B::space;

/// What `B::pack` makes of a host matrix: a constant weight in the layout the backend likes.
template <class B>
using packed_weight_t = typename B::packed_weight;

/// The element type in which a backend prefers to compute.
template <class B>
using element_t = typename B::element;

/// One of several products with the same activations: o = x w^T.
template <class B, class T>
struct linear_output {
  matrix_view<T, space_of<B>> o;
  const packed_weight_t<B>* w = nullptr;
};

namespace detail {
template <class B, class T>
struct factor {
  using type = T;
};
template <class B, class T>
requires requires { typename B::factor; }
struct factor<B, T> {
  using type = typename B::factor;
};
}  // namespace detail

/// The type to which a backend rounds the factors of products on elements of T, `B::factor` if it
/// says so: narrower than T where it trades digits for speed. Sums are carried in accumulate_t<T>.
template <class B, class T>
using factor_t = typename detail::factor<B, T>::type;

template <class B>
concept Storage = MemorySpace<space_of<B>> &&
    requires(B& be, void* p, const void* cp, std::size_t n_bytes) {
  { B::name } -> std::convertible_to<std::string_view>;
  /// At least 64-byte aligned; n_bytes > 0. @throws backend_error, std::bad_alloc
  { be.allocate(n_bytes) } -> std::same_as<void*>;
  { be.deallocate(p, n_bytes) }
  noexcept;
  be.upload(p, cp, n_bytes);    ///< host -> backend; cp is free on return
  be.download(p, cp, n_bytes);  ///< backend -> host, complete on return
  be.copy(p, cp, n_bytes);      ///< backend -> backend, no overlap
  be.synchronize();
};

/// The nine primitives; formulas, shapes and undefined cases stand at their front doors in ops/.
template <class B, class T>
concept Computes = Storage<B> && B::template supports<T>&& requires(
    B& be, matrix_view<T, space_of<B>> o, matrix_view<const T, space_of<B>> x,
    vector_view<const T, space_of<B>> v, tensor_view<T, 3, space_of<B>> o3,
    tensor_view<const T, 3, space_of<B>> x3, vector_view<const std::int32_t, space_of<B>> rows,
    vector_view<const float, space_of<B>> frequencies, const packed_weight_t<B>& w,
    const host_matrix& host, causal_mask mask) {
  { be.pack(host) } -> std::same_as<packed_weight_t<B>>;
  be.linear(o, x, w);
  be.matmul(o3, x3, x3, matmul_options{});
  be.norm(o, x, v, v, norm_options{});
  be.rope(o3, rows, frequencies, rope_options{});
  be.activation(o, x, x, activation_kind::silu);
  be.add(o, x, x);
  be.masked_softmax(o3, mask, softmax_options{}, o);
  be.gather_rows(o, x, rows);
  be.scatter_rows(o, x, rows);
};

template <class B>
concept Backend = Storage<B> && Computes<B, element_t<B>>;

/// Base of a backend: no fused path. A backend that has one sets its flag to true and defines the
/// function; a wrong signature is then a compile error and never a silent slow path.
struct no_native {
  /// `linears(outputs, x, coarse)` as ops::linears.
  static constexpr bool native_linears = false;
  /// `attention(o, q, kv, spans, scale, lse)` as ops::attention, without scratch.
  static constexpr bool native_attention = false;
  /// `attention_batch(calls, scale)` as ops::attention_batch: sequences of any lengths at once.
  static constexpr bool native_attention_batch = false;
  /// Caches of elements KV, another type than that of the activations: `append_rows(o, x, rows)`,
  /// as ops::append_rows, writes them, and `attention` reads them; without native_attention
  /// `read_rows(o, x)`, as ops::read_rows, which attention is then composed with.
  template <class KV>
  static constexpr bool native_cache = false;
  /// `append(k, v, sequences)` as ops::append: all heads of all sequences at once.
  static constexpr bool native_append = false;
  /// `project(call, sequences)` and `gated(call)` as in ops/few_rows.hpp, where
  /// `few_rows(n, d, width)` says that n rows of width d are few.
  static constexpr bool native_few_rows = false;
  /// `replay(recordings, key, f)` makes the calls that f makes, or those that it made under an
  /// equal key (core/replay.hpp) before, where `replays(n, group)` says that it can: for at most n
  /// rows of a sequence and so many heads a KV head. `recordings` is a movable type of the
  /// backend's. Of a call of `attention` that is made again, spans count as they lie in the
  /// backend's memory, and extents of caches do not count.
  static constexpr bool native_replay = false;
};

}  // namespace gistkv
