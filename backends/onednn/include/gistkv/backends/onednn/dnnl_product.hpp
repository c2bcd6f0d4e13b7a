// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/tensor_view.hpp>
#include <gistkv/core/types.hpp>

/// Products with packed weights by oneDNN, versions 2.6 to 3.

namespace gistkv::backends::onednn_detail {

/// Keeps oneDNN on the calling thread for its life: the backend shares work out by itself, and a
/// team of OpenMP threads inside each of its own would wait for cores that are taken.
class one_thread {
 public:
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
  one_thread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~one_thread() { omp_set_num_threads(before_); }
#else
  one_thread() = default;
#endif
  one_thread(const one_thread&) = delete;
  one_thread& operator=(const one_thread&) = delete;

 private:
  int before_ = 1;
};

template <class F>
auto checked(F&& f) {
  try {
    return f();
  } catch (const dnnl::error& e) {
    throw backend_error("oneDNN: " + std::string(e.what()) + ", status " +
                        std::to_string(static_cast<int>(e.status)));
  }
}

/// A matrix [rows, cols] as oneDNN likes it, in slices of its rows: the tasks of a product.
struct dnnl_weights {
  struct slice {
    index_t begin;
    index_t rows;
    dnnl::memory memory;
  };
  std::vector<slice> slices;
  index_t cols = 0;
  dnnl::memory::data_type type = dnnl::memory::data_type::f32;
};

class dnnl_product {
 public:
  using data_type = dnnl::memory::data_type;

  explicit dnnl_product(int n_threads)
      : engine_(checked([] { return dnnl::engine(dnnl::engine::kind::cpu, 0); })) {
    for (int i = 0; i < n_threads; ++i) {
      streams_.emplace_back(checked([&] { return dnnl::stream(engine_); }));
    }
    scratch_.resize(streams_.size());
    results_.resize(streams_.size());
  }

  /// Slices of some multiple of 64 rows, as many as keep all threads busy, and one of what is left
  /// over; without contents.
  dnnl_weights allocate(index_t rows, index_t cols, data_type type) {
    const one_thread guard;
    dnnl_weights w{{}, cols, type};
    const index_t units = rows / row_unit;
    const index_t count = std::min(2 * static_cast<index_t>(streams_.size()), units);
    const auto add = [&](index_t begin, index_t end) {
      // The layout does not depend on the number of activations; 64 stands for any.
      const auto description = describe(64, cols, end - begin, type, {});
      w.slices.push_back({begin, end - begin, checked([&] {
                            return dnnl::memory(description.weights_desc(), engine_);
                          })});
    };
    for (index_t i = 0; i < count; ++i) {
      add(units * i / count * row_unit, units * (i + 1) / count * row_unit);
    }
    if (rows > units * row_unit) add(units * row_unit, rows);
    return w;
  }

  /// Fills a slice from row-major floats [slice.rows, cols].
  void pack(const dnnl_weights& w, const dnnl_weights::slice& s, float* rows, int thread) {
    const one_thread guard;
    checked([&] {
      const dnnl::memory::desc plain({w.cols, s.rows}, data_type::f32,
                                     dnnl::memory::dims{1, w.cols});
      dnnl::memory from(plain, engine_, rows);
      dnnl::memory to = s.memory;
      dnnl::stream& stream = streams_[static_cast<std::size_t>(thread)];
      dnnl::reorder(from, to).execute(stream, from, to);
      stream.wait();
    });
  }

  /// Makes ready what `run` needs for n rows. Not from several threads.
  void prepare(const dnnl_weights& w, index_t n) {
    const one_thread guard;
    for (const dnnl_weights::slice& s : w.slices) find(w, s, n);
  }

  /// o [n, slice.rows], rows ldo apart, = x [n, cols] w^T, behind a `prepare`. x is dense: between
  /// rows that lie apart oneDNN 2.6 knows no fast product, and so the result is made dense as well.
  template <class T>
  void run(const dnnl_weights& w, const dnnl_weights::slice& s, index_t n, T* o, index_t ldo,
           const T* x, int thread) {
    const one_thread guard;
    prepared& p = primitives_.at(key(w, s, n));
    const auto t = static_cast<std::size_t>(thread);
    const bool dense = n == 1 || ldo == s.rows;
    T* result = dense ? o : results_[t].get<T>(static_cast<std::size_t>(n * s.rows));
    checked([&] {
      arguments& a = p.of_thread[t];
      a.x.set_data_handle(const_cast<T*>(x));
      a.o.set_data_handle(result);
      a.scratch.set_data_handle(scratch_[t].get<std::byte>(p.scratch_bytes));
      a.all.insert_or_assign(DNNL_ARG_WEIGHTS, s.memory);
      p.primitive.execute(streams_[t], a.all);
      streams_[t].wait();
    });
    if (dense) return;
    for (index_t i = 0; i < n; ++i) std::copy_n(result + i * s.rows, s.rows, o + i * ldo);
  }

 private:
  using key_type = std::tuple<index_t, index_t, index_t, int>;

  /// Memory objects of one thread: they name no memory until a call sets it.
  struct arguments {
    dnnl::memory x;
    dnnl::memory o;
    dnnl::memory scratch;
    std::unordered_map<int, dnnl::memory> all;
  };
  struct prepared {
    dnnl::matmul primitive;
    std::size_t scratch_bytes;
    std::vector<arguments> of_thread;
  };

  static key_type key(const dnnl_weights& w, const dnnl_weights::slice& s, index_t n) {
    return {n, w.cols, s.rows, static_cast<int>(w.type)};
  }

  dnnl::matmul::primitive_desc describe(index_t n, index_t k, index_t rows, data_type type,
                                        const dnnl::memory::desc& weights) const {
    return checked([&] {
      const dnnl::memory::desc x({n, k}, type, dnnl::memory::dims{k, 1});
      const dnnl::memory::desc o({n, rows}, type, dnnl::memory::dims{rows, 1});
      const dnnl::memory::desc any({k, rows}, type, dnnl::memory::format_tag::any);
      const bool given = weights.get_size() > 0;
      dnnl::primitive_attr attributes;
      // With the library's own scratchpad a primitive must not run on two threads.
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
      return dnnl::matmul::primitive_desc(engine_, x, given ? weights : any, o, attributes);
#else
      return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, given ? weights : any, o),
                                          attributes, engine_);
#endif
    });
  }

  void find(const dnnl_weights& w, const dnnl_weights::slice& s, index_t n) {
    const key_type k = key(w, s, n);
    if (primitives_.contains(k)) return;
    // A text read in pieces of every length would otherwise fill the memory with kernels.
    if (primitives_.size() >= most_primitives) primitives_.clear();
    const auto description = describe(n, w.cols, s.rows, w.type, s.memory.get_desc());
    checked([&] {
      prepared p{dnnl::matmul(description), description.scratchpad_desc().get_size(), {}};
      for (std::size_t t = 0; t < streams_.size(); ++t) {
        arguments a{dnnl::memory(description.src_desc(), engine_, nullptr),
                    dnnl::memory(description.dst_desc(), engine_, nullptr),
                    dnnl::memory(description.scratchpad_desc(), engine_, nullptr),
                    {}};
        a.all = {{DNNL_ARG_SRC, a.x}, {DNNL_ARG_DST, a.o}, {DNNL_ARG_SCRATCHPAD, a.scratch}};
        p.of_thread.push_back(std::move(a));
      }
      primitives_.emplace(k, std::move(p));
    });
  }

  static constexpr index_t row_unit = 64;
  static constexpr std::size_t most_primitives = 512;
  dnnl::engine engine_;
  std::vector<dnnl::stream> streams_;
  std::vector<scratch> scratch_;
  std::vector<scratch> results_;
  std::map<key_type, prepared> primitives_;
};

}  // namespace gistkv::backends::onednn_detail
