// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/backends/onednn/cpu.hpp>
#include <gistkv/backends/onednn/dnnl_product.hpp>
#include <gistkv/backends/onednn/kernels.hpp>
#include <gistkv/backends/onednn/key_order.hpp>
#include <gistkv/backends/onednn/quantized.hpp>
#include <gistkv/backends/onednn/rotation.hpp>
#include <gistkv/backends/onednn/scratch.hpp>
#include <gistkv/backends/onednn/training.hpp>
#include <gistkv/core/backend.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/host_storage.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/core/thread_pool.hpp>
#include <gistkv/ops/kv_spans.hpp>

namespace gistkv::backends {

struct onednn_options {
  int n_threads = 0;  ///< The calling thread included; 0: all that the machine has.
  instruction_set isa = best_instruction_set();  ///< Less than the CPU has, for tests.
};

/// The fast backend for CPUs: oneDNN multiplies matrices of floats and bf16 where that is fastest,
/// own kernels do the rest, among them products with weights in 4 and 8 bits, those of few rows,
/// all of a CPU with AVX2, and fused attention (onednn/simd/attention.inc).
///
/// T is the type of activations, F the type to which factors of products are rounded:
///   onednn<float, bf16>  for speed: products of bf16 pairs, all else in float;
///   onednn<float>        all in float;
///   onednn<bf16>         half the memory for activations, and fewer digits: they add up in bf16.
/// Each reads and writes caches of float, bf16, f16 and q8; keys and values are unpacked on their
/// way into the products, a block at a time or, for few queries, a few rows.
///
/// With factors of bf16 and AVX2 or more, weights of q8_0, q4_0, q4_1 and q4_k with finite scales
/// stay in their 4 or 8 bits, and others are kept in bf16; else in float. Calls return when they
/// are done. The last bits of a row may depend on how many rows share its call.
template <class T = float, class F = T>
requires(std::same_as<T, float> || std::same_as<T, bf16>) &&
    (std::same_as<F, T> || std::same_as<F, bf16>)class onednn : public no_native,
    public host_storage,
    public std::conditional_t<std::same_as<T, float>, onednn_detail::training<onednn<T, F>>,
                              onednn_detail::no_training<onednn<T, F>>> {
  using training_tier =
      std::conditional_t<std::same_as<T, float>, onednn_detail::training<onednn<T, F>>,
                         onednn_detail::no_training<onednn<T, F>>>;

 public:
  using space = host_storage::space;
  using element = T;
  using factor = F;
  static constexpr std::string_view name = "onednn";
  static constexpr bool native_linears = true;
  static constexpr bool native_attention = true;
  template <class KV>
  static constexpr bool native_cache = std::same_as<KV, float> || std::same_as<KV, bf16> ||
                                       std::same_as<KV, f16> || std::same_as<KV, q8>;
  template <class U>
  static constexpr bool supports = std::same_as<U, T>;

  /// @throws argument_error for an instruction set that the CPU does not have; backend_error.
  explicit onednn(onednn_options options = {})
      : training_tier(checked(options.isa)),
        isa_(options.isa),
        kernels_(&onednn_detail::kernels_for<T>(isa_)),
        narrow_(&onednn_detail::kernels_for<bf16>(isa_)),
        code_kernels_(codes_for(isa_)),
        tile_kernels_(onednn_detail::tile_kernels_for<T>(isa_)),
        few_rows_(onednn_detail::few_rows_for<T>(isa_)),
        panel_kernels_(onednn_detail::panel_kernels_for<T, F>(isa_)),
        pool_(options.n_threads),
        product_(pool_.size()),
        of_thread_(static_cast<std::size_t>(pool_.size())) {}

  int n_threads() const { return pool_.size(); }
  instruction_set isa() const { return isa_; }

  /// Calls f(i) for i < n on the threads, each of about `work` multiply-adds.
  template <class Function>
  void for_rows(index_t n, index_t work, Function&& f) {
    parallel(n, work, std::forward<Function>(f));
  }

  /// A weight in codes, or in floats, laid out by oneDNN or in panels.
  class packed_weight {
   public:
    packed_weight() = default;
    index_t rows() const { return rows_; }
    index_t cols() const { return cols_; }

   private:
    friend class onednn;
    index_t rows_ = 0;
    index_t cols_ = 0;
    onednn_detail::code_matrix codes_;
    onednn_detail::dnnl_weights floats_;
    onednn_detail::weight_panels<F> panels_;
  };

  /// @throws shape_error if host holds fewer bytes than its extents need; backend_error.
  packed_weight pack(const host_matrix& host) {
    packed_weight w;
    w.rows_ = host.rows;
    w.cols_ = host.cols;
    if (host.empty()) return w;
    check_bytes(host);
    w.codes_ = packed_codes(host);
    if (w.codes_.n_panels() > 0) return w;
    if (panel_kernels_.one != nullptr) {
      w.panels_ = packed_panels(host);
    } else {
      w.floats_ = packed_floats(host);
    }
    return w;
  }

  // Primitives; their formulas stand in ops/.

  void linear(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    if (o.empty()) return;
    if (w.cols_ == 0) {
      for (index_t i = 0; i < o.extent(0); ++i) std::fill_n(row(o, i), o.extent(1), T(0.0F));
    } else if (w.codes_.n_panels() > 0) {
      linear_codes(o, x, w);
    } else if (w.panels_.count() > 0) {
      const output to{o, &w};
      linear_panels({&to, 1}, x);
    } else if (takes_few(o.extent(0), w)) {
      const output to{o, &w};
      linear_few({&to, 1}, x);
    } else {
      linear_floats(o, x, w.floats_);
    }
  }

  void matmul(tensor_view<T, 3> o, tensor_view<const T, 3> a, tensor_view<const T, 3> b,
              const matmul_options& options) {
    const index_t m = o.extent(1);
    const index_t k = a.extent(2);
    if constexpr (std::same_as<T, float>) {
      if (m >= training_tier::blocked_rows) return this->multiply_blocked(o, a, b, options);
    }
    parallel(o.extent(0) * m, o.extent(2) * k, [&](index_t i) {
      const index_t h = i / m;
      kernels_->product(o.data() + o.offset(h, i % m, 0), a.data() + a.offset(h, i % m, 0),
                        b.data() + b.offset(h, 0, 0), b.stride(1), o.extent(2), k,
                        options.transpose_b, options.accumulate, static_cast<float>(options.alpha));
    });
  }

  void norm(matrix_view<T> o, matrix_view<const T> x, vector_view<const T> weight,
            vector_view<const T> bias, const norm_options& options) {
    const T* shift = bias.empty() ? nullptr : bias.data();
    parallel(x.extent(0), x.extent(1), [&](index_t i) {
      kernels_->norm(row(o, i), row(x, i), weight.data(), shift, x.extent(1),
                     options.kind == norm_kind::layer, static_cast<float>(options.eps));
    });
  }

  void rope(tensor_view<T, 3> x, vector_view<const std::int32_t> positions,
            vector_view<const float> frequencies, const rope_options& options) {
    const index_t half = x.extent(2) / 2;
    rotate_.update(positions, frequencies, options.magnitude, *this);
    parallel(x.extent(0), x.extent(1) * half, [&](index_t i) {
      kernels_->rope(x.data() + i * x.stride(0), x.extent(1), x.stride(1), half, rotate_.cosine(i),
                     rotate_.sine(i));
    });
  }

  void activation(matrix_view<T> o, matrix_view<const T> gate, matrix_view<const T> up,
                  activation_kind kind) {
    const index_t d = o.extent(1);
    parallel(o.extent(0), 2 * d, [&](index_t i) {
      const T* gated = up.empty() ? nullptr : row(up, i);
      switch (kind) {
        case activation_kind::silu:
          return kernels_->silu(row(o, i), row(gate, i), gated, d);
        case activation_kind::gelu_tanh:
          return kernels_->gelu_tanh(row(o, i), row(gate, i), gated, d);
        case activation_kind::gelu:
          return gelu_row(row(o, i), row(gate, i), gated, d);
      }
    });
  }

  void add(matrix_view<T> o, matrix_view<const T> a, matrix_view<const T> b) {
    parallel(o.extent(0), o.extent(1),
             [&](index_t i) { kernels_->add(row(o, i), row(a, i), row(b, i), o.extent(1)); });
  }

  template <AttentionMask M>
  void masked_softmax(tensor_view<T, 3> s, const M& mask, const softmax_options& options,
                      matrix_view<T> lse) {
    const index_t n_q = s.extent(1);
    parallel(s.extent(0) * n_q, 4 * s.extent(2), [&](index_t r) {
      const index_t h = r / n_q;
      const index_t i = r % n_q;
      T* scores = s.data() + s.offset(h, i, 0);
      const auto sees = [&](index_t j) { return mask(i, j); };
      const float sum = softmax_row(scores, s.extent(2), sees, static_cast<float>(options.scale));
      if (!lse.empty()) lse(h, i) = T(sum);
    });
  }

  template <class U>
  void gather_rows(matrix_view<U> o, matrix_view<const U> x, vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < o.extent(0); ++i) std::copy_n(row(x, rows(i)), o.extent(1), row(o, i));
  }

  void scatter_rows(matrix_view<T> o, matrix_view<const T> x,
                    vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) >= 0) std::copy_n(row(x, i), x.extent(1), row(o, rows(i)));
    }
  }

  // Fused paths.

  using output = linear_output<onednn, T>;

  /// One round of tasks for few rows times weights that lie in panels, and for any number where
  /// these are our own; else one product after the other. Coarse rows save time with weights in
  /// codes, for rows of one sentence's end.
  void linears(std::span<const output> outputs, matrix_view<const T> x, row_range coarse) {
    const onednn_detail::code_matrix& first = outputs.front().w->codes_;
    const auto all = [&](const auto& f) {
      return std::all_of(outputs.begin(), outputs.end(),
                         [&](const output& to) { return f(*to.w); });
    };
    if (x.extent(0) < worth_expanding && all([&](const packed_weight& w) {
          return w.codes_.n_panels() > 0 && w.codes_.format() == first.format();
        })) {
      return linear_whole_numbers(outputs, x, coarse);
    }
    if (all([](const packed_weight& w) { return w.panels_.count() > 0; })) {
      return linear_panels(outputs, x);
    }
    if (all([&](const packed_weight& w) { return takes_few(x.extent(0), w); })) {
      return linear_few(outputs, x);
    }
    for (const output& to : outputs) linear(to.o, x, *to.w);
  }

  template <class KV>
  void append_rows(matrix_view<KV> o, matrix_view<const T> x,
                   vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < x.extent(0); ++i) {
      if (rows(i) < 0) continue;
      if constexpr (std::same_as<KV, f16> || std::same_as<KV, q8>) {
        encode_row(row(x, i), x.extent(1), row(o, rows(i)));
      } else if constexpr (std::same_as<T, float>) {
        narrow_->convert_back(row(o, rows(i)), row(x, i), x.extent(1));
      } else {
        narrow_->convert(row(o, rows(i)), row(x, i), x.extent(1));
      }
    }
  }

  /// Queries go in tiles of one KV head; if there are fewer of these than threads, the keys are
  /// split as well and the partial results merged.
  template <class KV>
  void attention(tensor_view<T, 3> o, tensor_view<const T, 3> q, const kv_spans<KV, space>& kv,
                 const span_list& spans, double scale, matrix_view<T> lse) {
    using namespace onednn_detail;
    const attend_function<T, KV> attend = attend_for<T, KV, F>(isa_, q.extent(2));
    const index_t n_q = q.extent(0);
    const index_t n_kv_heads = kv.n_kv_heads();
    const index_t group = q.extent(1) / n_kv_heads;
    const index_t d = q.extent(2);
    const index_t most_tokens = std::max<index_t>(1, max_tile_rows / group);
    const index_t n_tiles = (n_q + most_tokens - 1) / most_tokens;
    const key_order keys(kv, spans.host);

    const index_t n_splits = splits_of_keys(n_threads(), n_kv_heads * n_tiles, keys.size());

    const index_t n_rows = std::min(n_q, most_tokens) * group;
    const index_t row_floats = padded(d) + 2;
    const std::size_t tile_floats = static_cast<std::size_t>(n_rows * row_floats);
    float* partial = partial_.get<float>(
        n_splits == 1 ? 0
                      : static_cast<std::size_t>(n_kv_heads * n_tiles * n_splits) * tile_floats);
    const auto results_in = [&](float* at) {
      return partial_attention{at, at + n_rows * padded(d), at + n_rows * (padded(d) + 1)};
    };
    const auto tile_of = [&](index_t item) {
      const index_t h = item % n_kv_heads;
      // The last tiles see most: they go first, so that no long one is left over at the end.
      const index_t begin = n_q * (n_tiles - 1 - item / n_kv_heads) / n_tiles;
      const index_t end = n_q * (n_tiles - item / n_kv_heads) / n_tiles;
      return attention_tile<T, KV>{q.data() + q.offset(begin, h * group, 0),
                                   q.stride(0),
                                   q.stride(1),
                                   spans.host.data() + begin,
                                   end - begin,
                                   group,
                                   d,
                                   head_of(kv.shared, h),
                                   head_of(kv.own, h),
                                   head_of(kv.local, h),
                                   0,
                                   keys.total,
                                   static_cast<float>(scale)};
    };
    const auto merge = [&](index_t item, const partial_attention& results, index_t n) {
      const attention_tile<T, KV> tile = tile_of(item);
      const index_t begin = tile.spans - spans.host.data();
      for (index_t r = 0; r < tile.n_rows(); ++r) {
        const index_t i = begin + r / group;
        const index_t h = item % n_kv_heads * group + r % group;
        const float sum = kernels_->merge(o.data() + o.offset(i, h, 0), d,
                                          results.from(r, padded(d)), n, n_rows * row_floats);
        if (!lse.empty()) lse(i, h) = T(sum);
      }
    };
    const std::size_t extra = attention_scratch_bytes(n_rows, d) / sizeof(float);
    reserve_of_threads((extra + tile_floats) * sizeof(float));
    pool_.for_tasks(n_kv_heads * n_tiles * n_splits, [&](index_t task, int thread) {
      const index_t item = task / n_splits;
      attention_tile<T, KV> tile = tile_of(item);
      float* own =
          of_thread_[static_cast<std::size_t>(thread)].template get<float>(extra + tile_floats);
      if (n_splits == 1) {
        const partial_attention result = results_in(own + extra);
        attend(tile, result, own);
        merge(item, result, 1);
      } else {
        const index_t split = task % n_splits;
        tile.key_begin = keys.number(keys.size() * split / n_splits);
        tile.key_end = keys.number(keys.size() * (split + 1) / n_splits);
        attend(tile, results_in(partial + static_cast<std::size_t>(task) * tile_floats), own);
      }
    });
    if (n_splits == 1) return;
    for (index_t item = 0; item < n_kv_heads * n_tiles; ++item) {
      merge(item, results_in(partial + static_cast<std::size_t>(item * n_splits) * tile_floats),
            n_splits);
    }
  }

 private:
  /// Expanding the codes costs about as much as multiplying so many rows by them.
  static constexpr index_t worth_expanding = 12;

  static instruction_set checked(instruction_set isa) {
    if (isa > best_instruction_set()) {
      throw argument_error("onednn: this CPU has " +
                           std::string(to_string(best_instruction_set())) + " at most, " +
                           std::string(to_string(isa)) + " was asked for");
    }
    return isa;
  }
  static const onednn_detail::code_kernels<T>* codes_for(instruction_set isa) {
    // Activations in 16 bits are beyond the precision of bf16, but not of float.
    return std::same_as<F, bf16> ? onednn_detail::code_kernels_for<T>(isa) : nullptr;
  }
  using data_type = dnnl::memory::data_type;
  template <class U>
  static constexpr data_type type_of() {
    return std::same_as<U, bf16> ? data_type::bf16 : data_type::f32;
  }
  data_type float_type() const {
    const bool narrow = std::same_as<F, bf16> && isa_ >= instruction_set::avx512_bf16;
    return narrow ? data_type::bf16 : data_type::f32;
  }
  static void check_bytes(const host_matrix& host) {
    const std::size_t row = std::max<std::size_t>(row_bytes(host.type, host.cols), 1);
    if (host.data.size() / row >= static_cast<std::size_t>(host.rows)) return;
    throw shape_error("pack: '" + host.name + "' holds " + std::to_string(host.data.size()) +
                      " bytes, expected " + std::to_string(host.rows) + " x " +
                      std::to_string(row));
  }

  /// Empty where the type has no codes here, or where they are of no use: see put_row.
  onednn_detail::code_matrix packed_codes(const host_matrix& host) {
    using namespace onednn_detail;
    code_format format;
    if (code_kernels_ == nullptr || !keeps_codes(host.type, format)) return {};
    code_matrix codes(format, host.rows, host.cols);
    std::atomic<bool> finite = true;
    pool_.for_tasks(codes.n_panels(), [&](index_t p, int) {
      const index_t end = std::min(host.rows, (p + 1) * code_panel);
      for (index_t r = p * code_panel; r < end; ++r) {
        if (!codes.put_row(host, r)) finite = false;
      }
    });
    if (!finite) return {};
    return codes;
  }
  onednn_detail::weight_panels<F> packed_panels(const host_matrix& host) {
    onednn_detail::weight_panels<F> panels(host.rows, host.cols);
    constexpr index_t rows = onednn_detail::weight_panels<F>::rows;
    pool_.for_tasks(panels.count(), [&](index_t p, int) {
      std::vector<float> values(static_cast<std::size_t>(host.cols));
      for (index_t r = p * rows; r < (p + 1) * rows; ++r) {
        if (r < host.rows) {
          dequantize_row(host, r, values.data());
        } else {
          std::ranges::fill(values, 0.0F);
        }
        panels.put_row(r, values.data());
      }
    });
    return panels;
  }
  onednn_detail::dnnl_weights packed_floats(const host_matrix& host) {
    onednn_detail::dnnl_weights weights = product_.allocate(host.rows, host.cols, float_type());
    const auto& slices = weights.slices;
    pool_.for_tasks(static_cast<index_t>(slices.size()), [&](index_t i, int thread) {
      const auto& s = slices[static_cast<std::size_t>(i)];
      std::vector<float> rows(static_cast<std::size_t>(s.rows * host.cols));
      for (index_t r = 0; r < s.rows; ++r) {
        dequantize_row(host, s.begin + r, rows.data() + r * host.cols);
      }
      product_.pack(weights, s, rows.data(), thread);
    });
    return weights;
  }

  /// Before tasks are handed out: which threads get one is known when it is too late to allocate.
  void reserve_of_threads(std::size_t n_bytes) {
    for (onednn_detail::scratch& s : of_thread_) s.get<std::byte>(n_bytes);
  }

  template <class U>
  static U* row(const matrix_view<U>& x, index_t i) {
    return x.data() + i * x.stride(0);
  }
  template <class KV>
  static onednn_detail::head_rows<KV> head_of(const kv_span<KV, space>& part, index_t h) {
    if (part.rows() == 0) return {};
    return {part.k.data() + part.k.offset(h, 0, 0), part.v.data() + part.v.offset(h, 0, 0),
            part.k.stride(1), part.v.stride(1), part.rows()};
  }

  /// Calls f(i) for i < n, each of about `work` multiply-adds.
  template <class Function>
  void parallel(index_t n, index_t work, Function&& f) {
    // Below this a second thread costs more than it saves.
    constexpr double worth_sharing = 40e3;
    if (static_cast<double>(n) * static_cast<double>(work) < worth_sharing) {
      for (index_t i = 0; i < n; ++i) f(i);
      return;
    }
    const index_t n_tasks = std::min<index_t>(n, 4 * n_threads());
    pool_.for_tasks(n_tasks, [&](index_t t, int) {
      for (index_t i = n * t / n_tasks; i < n * (t + 1) / n_tasks; ++i) f(i);
    });
  }

  void linear_codes(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    if (x.extent(0) >= worth_expanding) {
      tile_kernels_ != nullptr ? linear_tiles(o, x, w) : linear_expanded(o, x, w);
    } else {
      const output to{o, &w};
      linear_whole_numbers({&to, 1}, x, {});
    }
  }

  /// Few rows: reading the weights is all that takes time. All outputs have codes of one format.
  void linear_whole_numbers(std::span<const output> outputs, matrix_view<const T> x,
                            row_range coarse) {
    using namespace onednn_detail;
    const code_matrix& codes = outputs.front().w->codes_;
    const index_t n_fine = x.extent(0) - coarse.size();
    const bool worth_it = code_kernels_->quantize_coarse != nullptr &&
                          coarse.size() <= most_coarse_rows && n_fine >= 1 &&
                          n_fine <= most_beside_coarse_rows;
    const mixed_rows rows = mixed(x, worth_it ? coarse : row_range{}, codes.format());
    const auto panels_of = [](const packed_weight& w) { return w.codes_.n_panels(); };
    for_panels(outputs, panels_of, [&](const output& to, index_t p) {
      const code_matrix& m = to.w->codes_;
      const index_t first = p * code_panel;
      code_kernels_->product(to.o.data() + first, to.o.stride(0), rows, m.panel(p),
                             std::min(code_panel, to.w->rows_ - first), m.format());
    });
  }

  bool takes_few(index_t n, const packed_weight& w) const {
    return few_rows_ != nullptr && n <= onednn_detail::most_few_rows && !w.floats_.panels.empty();
  }

  /// The same for weights in bf16.
  void linear_few(std::span<const output> outputs, matrix_view<const T> x) {
    using namespace onednn_detail;
    const bf16* rows = dense<bf16>(x);
    const auto panels_of = [](const packed_weight& w) {
      return static_cast<index_t>(w.floats_.panels.size());
    };
    for_panels(outputs, panels_of, [&](const output& to, index_t p) {
      const index_t first = p * weight_panel;
      few_rows_(to.o.data() + first, to.o.stride(0), rows, x.extent(0), x.extent(1),
                to.w->floats_.panels[static_cast<std::size_t>(p)],
                std::min(weight_panel, to.w->rows_ - first));
    });
  }

  /// Any number of rows times weights in our own panels.
  void linear_panels(std::span<const output> outputs, matrix_view<const T> x) {
    using panels = onednn_detail::weight_panels<F>;
    using kernels = onednn_detail::panel_kernels<T, F>;
    const float* rows = dense<float>(x);
    const index_t cols = x.extent(1);
    const bool many = panel_kernels_.two != nullptr && x.extent(0) >= kernels::many_rows;
    const index_t step = many ? 2 : 1;
    const auto steps_of = [&](const packed_weight& w) {
      return (w.panels_.count() + step - 1) / step;
    };
    const row_parts parts(x.extent(0), tasks_for(n_panels(outputs, steps_of)), n_threads());
    for_panels(outputs, steps_of, parts.count, [&](const output& to, index_t s, index_t part) {
      const index_t first = s * step * panels::rows;
      const index_t begin = part * parts.length;
      const index_t n_out = std::min(step * panels::rows, to.w->rows_ - first);
      const auto product = n_out > panels::rows ? panel_kernels_.two : panel_kernels_.one;
      product(to.o.data() + begin * to.o.stride(0) + first, to.o.stride(0), rows + begin * cols,
              std::min(parts.length, parts.n - begin), cols, to.w->panels_.panel(s * step), n_out);
    });
  }

  /// Of all outputs.
  template <class Panels>
  static index_t n_panels(std::span<const output> outputs, const Panels& panels_of) {
    index_t n = 0;
    for (const output& to : outputs) n += panels_of(*to.w);
    return n;
  }
  /// How many tasks so many panels are cut into.
  index_t tasks_for(index_t n) const { return std::min<index_t>(n, 2 * n_threads()); }
  /// Calls f(output, p) for the panels p of all outputs, neighbours on one thread.
  template <class Panels, class Function>
  void for_panels(std::span<const output> outputs, const Panels& panels_of, const Function& f) {
    for_panels(outputs, panels_of, 1, [&](const output& to, index_t p, index_t) { f(to, p); });
  }
  /// Calls f(output, p, part) for these and for parts of the rows.
  template <class Panels, class Function>
  void for_panels(std::span<const output> outputs, const Panels& panels_of, index_t n_parts,
                  const Function& f) {
    const index_t n_all = n_panels(outputs, panels_of);
    const index_t n_tasks = tasks_for(n_all);
    pool_.for_tasks(n_tasks * n_parts, [&](index_t task, int) {
      const index_t t = task / n_parts;
      const index_t part = task % n_parts;
      index_t begin = n_all * t / n_tasks;
      index_t end = n_all * (t + 1) / n_tasks;
      for (const output& to : outputs) {
        const index_t n = panels_of(*to.w);
        for (index_t p = begin; p < std::min(end, n); ++p) f(to, p, part);
        begin = std::max<index_t>(begin - n, 0);
        end = std::max<index_t>(end - n, 0);
      }
    });
  }

  /// Many rows: four panels of codes at a time are unpacked for all of them.
  void linear_expanded(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    using namespace onednn_detail;
    const code_matrix& codes = w.codes_;
    const index_t n = x.extent(0);
    const quantized_rows rows = quantized_rows::in(
        activations_.get<std::uint32_t>(quantized_rows::words_for(n, w.cols_)), n, w.cols_);
    parallel(n, 4 * w.cols_,
             [&](index_t i) { code_kernels_->quantize(rows.from(i), row(x, i), codes.format()); });
    for_expanded(n, w, expanded_panels::words_for(codes.n_blocks()), [&](const part_of_product& p) {
      const auto expanded = expanded_panels::in(p.memory, codes.n_blocks());
      code_kernels_->expand(expanded, p.panels, codes.n_blocks(), codes.format());
      code_kernels_->multiply_expanded(o.data() + p.begin * o.stride(0) + p.first, o.stride(0),
                                       rows.from(p.begin), p.count, expanded, p.n_out,
                                       codes.format());
    });
  }

  /// The same with tiles.
  void linear_tiles(matrix_view<T> o, matrix_view<const T> x, const packed_weight& w) {
    using namespace onednn_detail;
    const code_matrix& codes = w.codes_;
    const index_t n = x.extent(0);
    const index_t d = x.extent(1);
    const split_numbers rows = split_numbers::rows_in(
        activations_.get<std::uint32_t>(split_numbers::words_for_rows(n, d)), n, d);
    parallel(n, 2 * d,
             [&](index_t i) { tile_kernels_->split(rows.from(i * d / 2), row(x, i), d); });
    const std::size_t words = split_numbers::words_for_panels(codes.n_blocks());
    for_expanded(n, w, words, [&](const part_of_product& p) {
      const auto expanded = split_numbers::panels_in(p.memory, codes.n_blocks());
      tile_kernels_->expand(expanded, p.panels, codes.n_blocks(), codes.format());
      tile_kernels_->multiply(o.data() + p.begin * o.stride(0) + p.first, o.stride(0),
                              rows.from(p.begin * d / 2), p.count, d, expanded, p.n_out);
    });
  }

  /// Rows [begin, begin + count) times the rows of a weight from `first` on, n_out of which exist.
  struct part_of_product {
    index_t begin;
    index_t count;
    index_t first;
    index_t n_out;
    const std::byte* panels[4];
    std::uint32_t* memory;  ///< Of the thread.
  };

  /// Calls f(part) on the threads, with memory for as many words, for all of n rows times codes.
  template <class Function>
  void for_expanded(index_t n, const packed_weight& w, std::size_t words, const Function& f) {
    using namespace onednn_detail;
    constexpr index_t slice = 4 * code_panel;
    const code_matrix& codes = w.codes_;
    const index_t n_slices = (w.rows_ + slice - 1) / slice;
    const row_parts parts(n, n_slices, n_threads());
    reserve_of_threads(words * sizeof(std::uint32_t));
    pool_.for_tasks(n_slices * parts.count, [&](index_t i, int thread) {
      part_of_product p;
      p.first = i / parts.count * slice;
      p.n_out = std::min(slice, w.rows_ - p.first);
      p.begin = i % parts.count * parts.length;
      p.count = std::min(parts.length, n - p.begin);
      for (index_t k = 0; k < 4; ++k) {
        // Panels past the end stand for the last one, and their results are dropped.
        p.panels[k] = codes.panel(std::min(p.first / code_panel + k, codes.n_panels() - 1));
      }
      p.memory = of_thread_[static_cast<std::size_t>(thread)].template get<std::uint32_t>(words);
      f(p);
    });
  }

  /// Few rows of x in whole numbers, of which some may be coarse.
  onednn_detail::mixed_rows mixed(matrix_view<const T> x, row_range coarse,
                                  onednn_detail::code_format format) {
    using namespace onednn_detail;
    const index_t n = x.extent(0);
    const index_t d = x.extent(1);
    const index_t n_fine = n - coarse.size();
    const std::size_t words = quantized_rows::words_for(n_fine, d);
    auto* memory =
        activations_.get<std::uint32_t>(words + coarse_rows::words_for(coarse.size(), d));
    mixed_rows rows(quantized_rows::in(memory, n_fine, d), n_fine);
    rows.coarse = coarse_rows::in(memory + words, coarse.size(), d);
    rows.n_coarse = coarse.size();
    rows.n_before = coarse.begin;
    parallel(n, 4 * d, [&](index_t i) {
      if (i >= coarse.begin && i < coarse.end) {
        code_kernels_->quantize_coarse(rows.coarse.from(i - coarse.begin), row(x, i), format);
      } else {
        const index_t before = i < coarse.begin ? i : i - coarse.size();
        code_kernels_->quantize_few(rows.fine.from(before), row(x, i), format);
      }
    });
    return rows;
  }

  void linear_floats(matrix_view<T> o, matrix_view<const T> x,
                     const onednn_detail::dnnl_weights& w) {
    if (w.type == data_type::bf16) return multiply<bf16>(o, x, w);
    if constexpr (std::same_as<T, float>) {
      multiply<float>(o, x, w);
    } else {
      const index_t n = x.extent(0);
      const index_t d = o.extent(1);
      float* wide = results_.get<float>(static_cast<std::size_t>(n * d));
      multiply<float>(matrix_view<float>(wide, {n, d}), x, w);
      parallel(n, d, [&](index_t i) { kernels_->convert_back(row(o, i), wide + i * d, d); });
    }
  }

  /// With factors of G.
  template <class G, class O>
  void multiply(matrix_view<O> o, matrix_view<const T> x, const onednn_detail::dnnl_weights& w) {
    using namespace onednn_detail;
    const G* factors = dense<G>(x);
    const index_t n = x.extent(0);
    const row_parts parts(n, static_cast<index_t>(w.slices.size()), n_threads());
    const auto shape_of = [&](index_t rows, const dnnl_weights::slice& s) {
      return product_shape{rows, w.cols, s.rows, w.type, type_of<O>()};
    };
    product_.make_room();
    for (const auto& s : w.slices) {
      product_.prepare(shape_of(parts.length, s), s.memory);
      product_.prepare(shape_of(parts.last(), s), s.memory);
    }
    pool_.for_tasks(
        static_cast<index_t>(w.slices.size()) * parts.count, [&](index_t i, int thread) {
          const auto& s = w.slices[static_cast<std::size_t>(i / parts.count)];
          const index_t begin = i % parts.count * parts.length;
          const index_t count = std::min(parts.length, n - begin);
          product_.run(shape_of(count, s), s.memory, o.data() + begin * o.stride(0) + s.begin,
                       o.stride(0), factors + begin * w.cols, thread);
        });
  }

  /// How rows of a product with `n_slices` of the weights are cut to give every thread enough
  /// tasks.
  struct row_parts {
    index_t n;
    index_t count;
    index_t length;

    row_parts(index_t rows, index_t n_slices, index_t n_threads) : n(rows) {
      const index_t most = std::max<index_t>(1, rows / 64);
      count = std::clamp<index_t>((8 * n_threads + n_slices - 1) / n_slices, 1, most);
      length = (rows + count - 1) / count;
      count = (rows + length - 1) / length;
    }
    index_t last() const { return n - (count - 1) * length; }
  };

  /// The rows of x without gaps, as elements of G.
  template <class G>
  const G* dense(matrix_view<const T> x) {
    const index_t n = x.extent(0);
    const index_t d = x.extent(1);
    if constexpr (std::same_as<G, T>) {
      if (n == 1 || x.stride(0) == d) return x.data();
    }
    G* copy = activations_.get<G>(static_cast<std::size_t>(n * d));
    parallel(n, d, [&](index_t i) {
      if constexpr (std::same_as<G, T>) {
        std::copy_n(row(x, i), d, copy + i * d);
      } else if constexpr (std::same_as<G, bf16>) {
        narrow_->convert_back(copy + i * d, row(x, i), d);
      } else {
        kernels_->convert(copy + i * d, row(x, i), d);
      }
    });
    return copy;
  }

  static void gelu_row(T* o, const T* gate, const T* up, index_t d) {
    constexpr float half_sqrt2 = std::numbers::sqrt2_v<float> / 2;
    for (index_t j = 0; j < d; ++j) {
      const auto x = static_cast<float>(gate[j]);
      // erfc keeps the digits of 1 + erf where that is nearly 0, and is 0 at -inf.
      const float tail = std::erfc(-x * half_sqrt2);
      const float y = tail == 0.0F ? 0.0F : 0.5F * x * tail;
      o[j] = T(up == nullptr ? y : y * static_cast<float>(up[j]));
    }
  }

  /// What is seen moves to the front of the row, is worked on without gaps, and moves back.
  template <class Sees>
  float softmax_row(T* x, index_t n_k, const Sees& sees, float scale) {
    index_t n = 0;
    for (index_t j = 0; j < n_k; ++j) {
      if (sees(j)) x[n++] = x[j];
    }
    if (n == 0) {
      std::fill_n(x, n_k, T(0.0F));
      return -std::numeric_limits<float>::infinity();
    }
    const float lse = kernels_->softmax(x, n, scale);
    for (index_t j = n_k; j-- > 0;) x[j] = sees(j) ? x[--n] : T(0.0F);
    return lse;
  }

  instruction_set isa_;
  const onednn_detail::kernels<T>* kernels_;
  const onednn_detail::kernels<bf16>* narrow_;
  const onednn_detail::code_kernels<T>* code_kernels_;
  const onednn_detail::tile_kernels<T>* tile_kernels_;
  onednn_detail::few_rows_function<T> few_rows_;
  onednn_detail::panel_kernels<T, F> panel_kernels_;
  thread_pool pool_;
  onednn_detail::dnnl_product product_;
  std::vector<onednn_detail::scratch> of_thread_;
  onednn_detail::scratch partial_;
  onednn_detail::scratch activations_;
  onednn_detail::scratch results_;
  onednn_detail::rotation rotate_;
};

static_assert(Backend<onednn<float>>);
static_assert(Backend<onednn<float, bf16>>);
static_assert(Backend<onednn<bf16>>);
static_assert(Trains<onednn<float>, float>);
static_assert(Trains<onednn<float, bf16>, float>);

}  // namespace gistkv::backends
