// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The source of the optimiser over many tensors, run on the host, beside one tensor at a time: by
// itself, and as a backend's native path under train::parameter_set.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <cuda/emulation.hpp>
#include <gistkv/backends/cuda/many_tensors.hpp>
#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/train/parameters.hpp>

namespace gistkv {
namespace {

using namespace emulation;

const std::vector<adamw_options> three_options = {{1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3},
                                                  {3e-3, 0.9, 0.95, 1e-8, 0.0, 0.5, 3},
                                                  {1e-1, 0.8, 0.99, 1e-6, 0.2, 0.5, 7}};

/// Threads of a block of the emulated launch; any number gives the same.
constexpr int n_threads = 96;

template <class T>
void update_all(const tensor_list<T>& list) {
  for (index_t piece = 0; piece < list.n_pieces; ++piece) {
    for (int thread = 0; thread < n_threads; ++thread) {
      update_piece<group<32>>(list, piece, thread, n_threads);
    }
  }
}
template <class T>
void clear_all(const tensor_list<T>& list) {
  for (index_t piece = 0; piece < list.n_pieces; ++piece) {
    for (int thread = 0; thread < n_threads; ++thread) {
      clear_piece(list, piece, thread, n_threads);
    }
  }
}
template <class T>
double squares_of_all(const tensor_list<T>& list) {
  std::vector<double> sums(square_warps, std::nan(""));
  run_block(1, 0, 1, fault::none, [&](group<32>& w) {
    for (index_t item = 0; item < square_warps; ++item) add_squares(w, list, item, sums.data());
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

/// Tensors of many sizes, some empty, with memory behind each that nobody may touch.
template <class T>
struct tensors {
  static constexpr index_t sizes[] = {0, 1, 31, 4096, 0, 0, 4097, 3 * 4096, 5, 20000, 0};
  static constexpr index_t gap = 8;
  struct one {
    std::vector<float> p, gradient, first, second;
    std::vector<T> narrow;
  };
  std::vector<one> all;

  tensors() {
    random_generator random(4);
    for (const index_t n : sizes) {
      const auto drawn = [&](double magnitude) {
        std::vector<float> x;
        for (index_t i = 0; i < n + gap; ++i) {
          x.push_back(static_cast<float>(magnitude * random.normal()));
        }
        return x;
      };
      one t{drawn(1.0), drawn(0.01), drawn(0.01), drawn(0.01), {}};
      for (float& x : t.second) x *= x;
      for (const float x : t.p) t.narrow.push_back(T(x));
      all.push_back(t);
    }
  }
  std::vector<trained_tensor<T>> list(bool copies) {
    std::vector<trained_tensor<T>> out;
    for (std::size_t i = 0; i < all.size(); ++i) {
      one& t = all[i];
      out.push_back({t.p.data(), t.gradient.data(), t.first.data(), t.second.data(),
                     copies ? t.narrow.data() : nullptr, sizes[i], static_cast<index_t>(i % 3)});
    }
    return out;
  }
  /// One after the other, as cuda's `adamw` and `narrow` do.
  void update() {
    for (std::size_t i = 0; i < all.size(); ++i) {
      const adamw_step step(three_options[i % 3]);
      one& t = all[i];
      for (std::size_t e = 0; e < static_cast<std::size_t>(sizes[i]); ++e) {
        step(t.p[e], t.gradient[e], t.first[e], t.second[e]);
        t.narrow[e] = T(t.p[e]);
      }
    }
  }
  bool operator==(const tensors& other) const {
    const auto equal = [](const auto& a, const auto& b) {
      return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    for (std::size_t i = 0; i < all.size(); ++i) {
      const one &a = all[i], &b = other.all[i];
      if (!equal(a.p, b.p) || !equal(a.gradient, b.gradient) || !equal(a.first, b.first) ||
          !equal(a.second, b.second) || !equal(a.narrow, b.narrow)) {
        return false;
      }
    }
    return true;
  }
};

TEST_CASE_TEMPLATE("many tensors: each element once, to the bit; errors show", T, bf16, f16) {
  using list = tensor_list<T>;
  const std::function<void(list&, std::vector<index_t>&, std::vector<trained_tensor<T>>&)>
      faults[] = {
          [](auto&, auto&, auto&) {},
          [](auto& l, auto&, auto&) { l.n_pieces -= 1; },
          [](auto&, auto& first_piece, auto&) { first_piece[7] += 1; },
          [](auto&, auto& first_piece, auto&) { first_piece[6] -= 1; },
          [](auto&, auto&, auto& t) { t[3].options = 1; },
          [](auto&, auto&, auto& t) { t[9].narrow = nullptr; },
          [](auto&, auto&, auto& t) { t[6].n -= 1; },
          [](auto&, auto&, auto& t) { t[8].n += 1; },
          [](auto&, auto&, auto& t) { std::swap(t[2].first, t[2].second); },
      };
  for (std::size_t f = 0; f < std::size(faults); ++f) {
    CAPTURE(f);
    tensors<T> one_by_one, together;
    one_by_one.update();
    const auto tensors_of_list = together.list(true);
    const packed_tensors<T> packed(tensors_of_list, three_options);
    std::vector<std::uint64_t> memory((packed.bytes().size() + 7) / 8);
    std::memcpy(memory.data(), packed.bytes().data(), packed.bytes().size());
    list l = packed.at(memory.data());
    std::vector<trained_tensor<T>> changed(l.tensors, l.tensors + l.n_tensors);
    std::vector<index_t> first_piece(l.first_piece, l.first_piece + l.n_tensors);
    faults[f](l, first_piece, changed);
    l.tensors = changed.data();
    l.first_piece = first_piece.data();
    update_all(l);
    CHECK((together == one_by_one) == (f == 0));
  }
}

TEST_CASE("many tensors: gradients cleared, and the sum of their squares") {
  tensors<bf16> x, before;
  const packed_tensors<bf16> packed(x.list(false));
  std::vector<std::uint64_t> memory((packed.bytes().size() + 7) / 8);
  std::memcpy(memory.data(), packed.bytes().data(), packed.bytes().size());
  const auto list = packed.at(memory.data());
  long double want = 0.0L;
  for (std::size_t i = 0; i < x.all.size(); ++i) {
    for (index_t e = 0; e < x.sizes[i]; ++e) {
      const long double g = x.all[i].gradient[static_cast<std::size_t>(e)];
      want += g * g;
    }
  }
  CHECK(std::abs(squares_of_all(list) - static_cast<double>(want)) <=
        1e-14 * static_cast<double>(want));
  auto shorter = list;
  shorter.n_pieces -= 1;
  CHECK(squares_of_all(shorter) < (1.0 - 1e-4) * static_cast<double>(want));
  clear_all(list);
  for (std::size_t i = 0; i < x.all.size(); ++i) {
    const auto n = static_cast<std::size_t>(x.sizes[i]);
    for (std::size_t e = 0; e < x.all[i].gradient.size(); ++e) {
      CHECK(x.all[i].gradient[e] == (e < n ? 0.0F : before.all[i].gradient[e]));
    }
    before.all[i].gradient = x.all[i].gradient;
  }
  CHECK(x == before);
}

/// The reference, whose update is that of the kernels; natively, if it says so.
struct by_tensor : backends::eigen<float> {
  void adamw(vector_view<float> p, vector_view<const float> gradient, vector_view<float> first,
             vector_view<float> second, const adamw_options& o) {
    const adamw_step step(o);
    for (index_t i = 0; i < p.extent(0); ++i) {
      step(p.data()[i], gradient.data()[i], first.data()[i], second.data()[i]);
    }
  }
};
struct by_list : by_tensor {
  static constexpr bool native_many_tensors = true;
  int calls = 0;
  bool first_options = false;  ///< An error: all get the options of the first kind.

  template <class F>
  void with(std::span<const trained_tensor<float>> tensors, std::span<const adamw_options> options,
            F&& f) {
    std::vector<trained_tensor<float>> all(tensors.begin(), tensors.end());
    for (auto& t : all) t.options *= first_options ? 0 : 1;
    const packed_tensors<float> packed(all, options);
    f(packed.at(packed.bytes().data()));
    ++calls;
  }
  void adamw_many(std::span<const trained_tensor<float>> tensors,
                  std::span<const adamw_options> options) {
    with(tensors, options, [](const auto& list) { update_all(list); });
  }
  double squared_norm_many(std::span<const trained_tensor<float>> tensors) {
    double sum = 0.0;
    with(tensors, {}, [&](const auto& list) { sum = squares_of_all(list); });
    return sum;
  }
  void clear_gradients(std::span<const trained_tensor<float>> tensors) {
    with(tensors, {}, [](const auto& list) { clear_all(list); });
  }
};
static_assert(native_many_tensors<by_list> && !native_many_tensors<by_tensor>);

struct trained {
  std::vector<float> numbers;  ///< Values, gradients, moments.
  std::vector<double> norms;
};
template <class B>
trained train_on(B& be) {
  using train::parameter_kind;
  train::parameter_set<B, float> set(be);
  random_generator random(9);
  const auto drawn = [&random](index_t n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& v : x) v = static_cast<float>(random.normal());
    return x;
  };
  for (index_t i = 0; i < 12; ++i) {
    const index_t rows = 1 + i, cols = i % 4 == 2 ? 700 : 13;
    const auto kind = static_cast<std::size_t>(i) % train::parameter_kinds.size();
    set.add(std::to_string(i), train::parameter_kinds[kind], rows, cols, drawn(rows * cols));
  }
  set[6].trained = false;
  trained found;
  for (index_t step = 1; step <= 3; ++step) {
    set.clear_gradients();
    for (std::size_t i = 0; i < set.size(); ++i) {
      const auto gradient = drawn(set[i].gradient.size());
      for (std::size_t e = 0; e < gradient.size(); ++e) set[i].gradient.data()[e] += gradient[e];
    }
    found.norms.push_back(set.gradient_norm());
    set.update(
        {.weight_decay = 0.1},
        [](parameter_kind kind) { return kind == parameter_kind::gist ? 1e-2 : 1e-3; },
        1.0 / found.norms.back(), step);
  }
  for (std::size_t i = 0; i < set.size(); ++i) {
    auto& p = set[i];
    for (const auto* b : {&p.value, &p.gradient, &p.first, &p.second}) {
      const auto x = b->to_host();
      found.numbers.insert(found.numbers.end(), x.begin(), x.end());
    }
  }
  return found;
}

TEST_CASE("a parameter set on a backend that takes many tensors at once") {
  by_tensor plain;
  by_list native, wrong;
  wrong.first_options = true;
  const trained want = train_on(plain), found = train_on(native);
  CHECK(native.calls == 9);
  REQUIRE(found.norms.size() == 3);
  for (std::size_t i = 0; i < want.norms.size(); ++i) {
    CHECK(std::abs(found.norms[i] - want.norms[i]) <= 1e-14 * want.norms[i]);
  }
  CHECK(found.numbers == want.numbers);
  CHECK(train_on(wrong).numbers != want.numbers);
}

}  // namespace
}  // namespace gistkv
