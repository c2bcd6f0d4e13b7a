// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// That a warm backend allocates nothing, neither by its own `allocate` nor by operator new: that is
// replaced in this program by one that counts. What oneDNN does behind its interface is its own
// affair, so callers outside this program's code do not count.
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include <gistkv/backends/onednn.hpp>
#include <gistkv/core/quantize.hpp>
#include <gistkv/model/session.hpp>

#include "support/random_model.hpp"

// From the linker: where this program's code is.
extern const char __executable_start, etext;

namespace {

std::atomic<long> n_new{0};

void* counted_new(std::size_t n_bytes, std::size_t alignment, const void* caller) {
  if (caller >= &__executable_start && caller < &etext) {
    n_new.fetch_add(1, std::memory_order_relaxed);
  }
  const std::size_t whole = (n_bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, whole == 0 ? alignment : whole);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t n) {
  return counted_new(n, alignof(std::max_align_t), __builtin_return_address(0));
}
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a) {
  return counted_new(n, static_cast<std::size_t>(a), __builtin_return_address(0));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace gistkv {
namespace {

using fast = backends::onednn<float, bf16>;

/// Counts what its operations allocate.
template <class Base>
struct counting : Base {
  using base = Base;
  using base::base;
  long n_allocate = 0;
  long n_inside = 0;

  void* allocate(std::size_t n) {
    ++n_allocate;
    return base::allocate(n);
  }
  template <class... Args>
  void linear(Args&&... args) {
    const watch w(*this);
    base::linear(std::forward<Args>(args)...);
  }
  /// The base class knows outputs of its own type only.
  void linears(std::span<const linear_output<counting, typename Base::element>> outputs,
               matrix_view<const typename Base::element> x, row_range coarse) {
    std::array<linear_output<Base, typename Base::element>, 3> list;
    REQUIRE(outputs.size() <= list.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) list[i] = {outputs[i].o, outputs[i].w};
    const watch w(*this);
    base::linears(std::span(list).first(outputs.size()), x, coarse);
  }
  template <class... Args>
  void matmul(Args&&... args) {
    const watch w(*this);
    base::matmul(std::forward<Args>(args)...);
  }
  template <class... Args>
  void norm(Args&&... args) {
    const watch w(*this);
    base::norm(std::forward<Args>(args)...);
  }
  template <class... Args>
  void rope(Args&&... args) {
    const watch w(*this);
    base::rope(std::forward<Args>(args)...);
  }
  template <class... Args>
  void activation(Args&&... args) {
    const watch w(*this);
    base::activation(std::forward<Args>(args)...);
  }
  template <class... Args>
  void add(Args&&... args) {
    const watch w(*this);
    base::add(std::forward<Args>(args)...);
  }
  template <class... Args>
  void gather_rows(Args&&... args) {
    const watch w(*this);
    base::gather_rows(std::forward<Args>(args)...);
  }
  template <class... Args>
  void scatter_rows(Args&&... args) {
    const watch w(*this);
    base::scatter_rows(std::forward<Args>(args)...);
  }
  template <class... Args>
  void append_rows(Args&&... args) {
    const watch w(*this);
    base::append_rows(std::forward<Args>(args)...);
  }
  template <class... Args>
  void attention(Args&&... args) {
    const watch w(*this);
    base::attention(std::forward<Args>(args)...);
  }

 private:
  struct watch {
    explicit watch(counting& be) : be_(be), before_(n_new) {}
    ~watch() { be_.n_inside += n_new - before_; }
    watch(const watch&) = delete;
    watch& operator=(const watch&) = delete;
    counting& be_;
    long before_;
  };
};

TEST_CASE_TEMPLATE("a decode step and a close step allocate nothing in the backend", Base,
                   backends::onednn<float>, fast, backends::onednn<bf16>) {
  using B = counting<Base>;
  using T = typename Base::element;
  using KV = typename Base::factor;
  const auto source = test::random_model({.head_dim = 32, .d_model = 128, .d_ff = 192});
  const auto gists = model::untrained_gist_rows(source, 2, 3);
  B be({.n_threads = 2});
  const model::transformer<B, T, KV> m(be, source, gists);
  model::session<B, T, KV> s(m, cache::cache_options{{2, 0, 1, 0}}, {.past_context = true});
  // Anchors and an open sentence long enough that the keys are split as far as they ever are.
  std::vector<token_t> text;
  for (int i = 0; i < 600; ++i)
    text.insert(text.end(), {5, 6, 7, 8, m.first_gist(), m.first_gist() + 1});
  s.read(text);
  CHECK(be.n_inside > 0);  // The counter counts.
  const auto decode_sentences = [&](int n) {
    int n_steps_that_allocate = 0;
    int n_steps_that_grow = 0;
    const auto step = [&](std::span<const token_t> ids) {
      const long before = be.n_allocate;
      const std::size_t held = s.cache().bytes_allocated();
      s.read(ids);
      n_steps_that_allocate += be.n_allocate != before ? 1 : 0;
      n_steps_that_grow += s.cache().bytes_allocated() != held ? 1 : 0;
    };
    for (int i = 0; i < n; ++i) {
      for (int t = 0; t < 7; ++t) step(std::span(text).first(1));
      step(std::span(text).subspan(3, 3));  // The last token and its gists.
    }
    CHECK(n_steps_that_allocate <= n_steps_that_grow);
    CHECK(n_steps_that_grow <= 3);
  };
  decode_sentences(1);
  be.n_inside = 0;
  decode_sentences(8);
  CHECK(be.n_inside == 0);
}

template <class Base>
void check_products(backends::instruction_set isa) {
  using B = counting<Base>;
  using T = typename Base::element;
  using enum weight_type;
  for (const weight_type type : {q8_0, q4_0, q4_1, f32}) {
    B be({.n_threads = 2, .isa = isa});
    constexpr index_t d_out = 96, d_in = 256;
    const std::vector<float> row(static_cast<std::size_t>(d_in), 0.5F);
    std::vector<std::byte> stored(row_bytes(type, d_in) * static_cast<std::size_t>(d_out));
    for (index_t r = 0; r < d_out; ++r) {
      std::byte* to = stored.data() + row_bytes(type, d_in) * static_cast<std::size_t>(r);
      if (type == f32) {
        std::memcpy(to, row.data(), row_bytes(type, d_in));
      } else {
        quantize(type, row.data(), d_in, to);
      }
    }
    const auto w = be.pack({"w", type, d_out, d_in, stored});
    for (const index_t n : {1, 3, 40}) {
      CAPTURE(n);
      buffer<T, B> x(be, n * d_in);
      buffer<T, B> o(be, n * d_out);
      const auto product = [&] {
        be.n_inside = 0;
        be.linear(o.view({n, d_out}), std::as_const(x).view({n, d_in}), w);
        return be.n_inside;
      };
      const long first = product();
      // Floats times floats may need no memory at all.
      if (!std::same_as<T, float> || (std::same_as<Base, fast> && type != f32)) CHECK(first > 0);
      CHECK(product() == 0);
    }
  }
}

TEST_CASE_TEMPLATE("a product allocates nothing the second time", Base, backends::onednn<float>,
                   fast, backends::onednn<bf16>) {
  using backends::instruction_set;
  for (const instruction_set isa : {instruction_set::avx2, backends::best_instruction_set()}) {
    if (isa > backends::best_instruction_set()) continue;
    CAPTURE(backends::to_string(isa));
    check_products<Base>(isa);
  }
}

}  // namespace
}  // namespace gistkv
