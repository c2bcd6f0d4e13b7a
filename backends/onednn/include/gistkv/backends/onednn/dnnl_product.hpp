// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
#include <omp.h>
#endif

#include <gistkv/backends/onednn/kernels.hpp>
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
  std::vector<const std::byte*> panels;  ///< Of weight_panel rows; empty where laid out otherwise.
  index_t cols = 0;
  dnnl::memory::data_type type = dnnl::memory::data_type::f32;
};

/// o [n, rows] = x [n, cols] w^T with factors of one type and a result of another.
struct product_shape {
  index_t n = 0;
  index_t cols = 0;
  index_t rows = 0;
  dnnl::memory::data_type factor = dnnl::memory::data_type::f32;
  dnnl::memory::data_type result = dnnl::memory::data_type::f32;

  friend auto operator<=>(const product_shape&, const product_shape&) = default;
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
    dnnl_weights w{{}, {}, cols, type};
    bool in_panels = type == data_type::bf16 && cols % 2 == 0;
    const index_t units = rows / row_unit;
    const index_t count = std::min(2 * static_cast<index_t>(streams_.size()), units);
    const auto add = [&](index_t begin, index_t end) {
      // The layout does not depend on the number of activations; 64 stands for any.
      checked([&] {
        const dnnl::memory::desc any({cols, end - begin}, type, dnnl::memory::format_tag::any);
        const auto layout = describe({64, cols, end - begin, type, type}, any).weights_desc();
        w.slices.push_back({begin, end - begin, dnnl::memory(layout, engine_)});
        in_panels = in_panels && layout == dnnl::memory::desc({cols, end - begin}, type,
                                                              dnnl::memory::format_tag::BA16a64b2a);
      });
    };
    for (index_t i = 0; i < count; ++i) {
      add(units * i / count * row_unit, units * (i + 1) / count * row_unit);
    }
    if (rows > units * row_unit) add(units * row_unit, rows);
    if (!in_panels) return w;
    const index_t panel_bytes = (cols + 31) / 32 * 32 * row_unit * 2;
    for (const auto& s : w.slices) {
      const auto* first = static_cast<const std::byte*>(s.memory.get_data_handle());
      for (index_t r = 0; r < s.rows; r += row_unit) {
        w.panels.push_back(first + r / row_unit * panel_bytes);
      }
    }
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

  /// Before the products of a call are made ready: a text read in pieces of every length would
  /// otherwise fill the memory with kernels.
  void make_room() {
    if (primitives_.size() >= most_primitives) primitives_.clear();
  }

  /// Makes ready what `run` needs. Not from several threads.
  void prepare(const product_shape& shape, const dnnl::memory& weights) {
    // For every thread: which of them get a task is known when it is too late to allocate.
    for (scratch& s : results_) {
      s.get<float>(static_cast<std::size_t>(shape.n > 1 ? shape.n * shape.rows : 0));
    }
    if (const auto found = primitives_.find(shape); found != primitives_.end()) {
      for (scratch& s : scratch_) s.get<std::byte>(found->second.scratch_bytes);
      return;
    }
    const one_thread guard;
    checked([&] {
      const auto description = describe(shape, weights.get_desc());
      prepared p{dnnl::matmul(description), description.scratchpad_desc().get_size(), {}};
      for (std::size_t t = 0; t < streams_.size(); ++t) {
        const auto nowhere = [&](const dnnl::memory::desc& d) {
          return dnnl::memory(d, engine_, nullptr);
        };
        arguments a{nowhere(description.src_desc()), nowhere(description.dst_desc()),
                    nowhere(description.scratchpad_desc())};
        p.of_thread.push_back(std::move(a));
      }
      for (scratch& s : scratch_) s.get<std::byte>(p.scratch_bytes);
      primitives_.emplace(shape, std::move(p));
    });
  }

  /// o [n, rows], its rows ldo apart, = x [n, cols] w^T, behind a `prepare`. x is dense: between
  /// rows that lie apart oneDNN 2.6 knows no fast product, so the result is made dense as well.
  template <class X, class O>
  void run(const product_shape& shape, const dnnl::memory& weights, O* o, index_t ldo, const X* x,
           int thread) {
    const one_thread guard;
    prepared& p = primitives_.at(shape);
    const auto t = static_cast<std::size_t>(thread);
    const bool dense = shape.n == 1 || ldo == shape.rows;
    O* result = dense ? o : results_[t].get<O>(static_cast<std::size_t>(shape.n * shape.rows));
    checked([&] {
      arguments& a = p.of_thread[t];
      a.x.set_data_handle(const_cast<X*>(x));
      a.o.set_data_handle(result);
      a.scratch.set_data_handle(scratch_[t].get<std::byte>(p.scratch_bytes));
      // Through the C interface: that of C++ allocates a list of arguments a call.
      const std::array<dnnl_exec_arg_t, 4> list{{{DNNL_ARG_SRC, a.x.get()},
                                                 {DNNL_ARG_DST, a.o.get()},
                                                 {DNNL_ARG_SCRATCHPAD, a.scratch.get()},
                                                 {DNNL_ARG_WEIGHTS, weights.get()}}};
      dnnl::error::wrap_c_api(dnnl_primitive_execute(p.primitive.get(), streams_[t].get(),
                                                     static_cast<int>(list.size()), list.data()),
                              "could not run a product");
      streams_[t].wait();
    });
    if (dense) return;
    for (index_t i = 0; i < shape.n; ++i) {
      std::copy_n(result + i * shape.rows, shape.rows, o + i * ldo);
    }
  }

 private:
  /// Memory objects of one thread: they name no memory until a call sets it.
  struct arguments {
    dnnl::memory x;
    dnnl::memory o;
    dnnl::memory scratch;
  };
  struct prepared {
    dnnl::matmul primitive;
    std::size_t scratch_bytes;
    std::vector<arguments> of_thread;
  };

  dnnl::matmul::primitive_desc describe(const product_shape& s,
                                        const dnnl::memory::desc& weights) const {
    const dnnl::memory::desc x({s.n, s.cols}, s.factor, dnnl::memory::dims{s.cols, 1});
    const dnnl::memory::desc o({s.n, s.rows}, s.result, dnnl::memory::dims{s.rows, 1});
    dnnl::primitive_attr attributes;
    // With the library's own scratchpad a primitive must not run on two threads.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    return dnnl::matmul::primitive_desc(engine_, x, weights, o, attributes);
#else
    return dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, weights, o), attributes, engine_);
#endif
  }

  static constexpr index_t row_unit = weight_panel;
  static constexpr std::size_t most_primitives = 512;
  dnnl::engine engine_;
  std::vector<dnnl::stream> streams_;
  std::vector<scratch> scratch_;
  std::vector<scratch> results_;
  std::map<product_shape, prepared> primitives_;
};

}  // namespace gistkv::backends::onednn_detail
