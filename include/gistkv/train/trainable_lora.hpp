// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/hash.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/model/lora.hpp>
#include <gistkv/ops/add.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/matmul.hpp>
#include <gistkv/ops/rows.hpp>
#include <gistkv/train/parameters.hpp>

namespace gistkv::train {

/// Low-rank adaptation (Hu et al. 2021): y = W x + (alpha / rank) B A x, A [rank, in] drawn at
/// random, B [out, rank] zero at first, with dropout on x in front of A while training.
struct lora_options {
  index_t rank = 16;
  double alpha = 32.0;
  double dropout = 0.0;
  /// Of query, key, value, output, gate, up, down.
  std::vector<std::string> targets = {"query", "key", "value", "output", "gate", "up", "down"};
  bool gist_rows_only = false;  ///< Applied to the rows of gist tokens and to no others.
  std::uint64_t seed = 0;
  std::string name = "lora";                   ///< Its parameters are NAME_a and NAME_b.
  parameter_kind kind = parameter_kind::lora;  ///< For the optimiser.

  bool has(const std::string& target) const {
    return std::find(targets.begin(), targets.end(), target) != targets.end();
  }
};

/// What errors say of targets.
inline constexpr const char* lora_target_names =
    "query, key, value, output, gate, up and down, or some of them";

/// @throws argument_error naming the field. A target that no block has would train nothing.
inline void validate(const lora_options& o) {
  const auto refuse = [&o](const std::string& field, const std::string& found, const char* want) {
    throw argument_error("LoRA '" + o.name + "': " + field + " is " + found + ", expected " + want);
  };
  if (o.rank < 1) refuse("rank", std::to_string(o.rank), "1 or more");
  if (!(o.alpha > 0.0 && std::isfinite(o.alpha))) {
    refuse("alpha", std::to_string(o.alpha), "a positive number");
  }
  if (!(o.dropout >= 0.0 && o.dropout < 1.0)) {
    refuse("dropout", std::to_string(o.dropout), "0 or more and less than 1");
  }
  if (o.targets.empty()) refuse("targets", "an empty list", lora_target_names);
  const lora_options all;
  for (const std::string& target : o.targets) {
    if (!all.has(target)) refuse("a target", "'" + target + "'", lora_target_names);
  }
}

/// Factors are taken over when all of them are known to fit.
enum class load_step { check, take_over };

/// LoRA to go on from is of maps that are trained, and means what it meant: nothing of it is lost.
/// @param which  it is, in errors: "LoRA of the decoder"
/// @throws argument_error for a layer behind the last, a map that is not trained, another alpha,
///         and two changes of one map.
inline void expect_trained(std::span<const model::low_rank> factors, double alpha,
                           const lora_options& options, std::size_t n_layers,
                           const std::string& which) {
  for (const model::low_rank& f : factors) {
    if (f.layer < 0 || f.layer >= static_cast<index_t>(n_layers)) {
      throw argument_error(which + " is for layer " + std::to_string(f.layer) + " of " +
                           std::to_string(n_layers));
    }
    if (!options.has(f.target)) {
      throw argument_error(which + " is of " + f.target +
                           " too, which is not among the maps to train");
    }
    if (alpha != options.alpha) {
      throw argument_error(which + " has alpha " + std::to_string(alpha) + ", to be trained with " +
                           std::to_string(options.alpha));
    }
  }
  model::expect_one_of_each(factors);
}

/// LoRA that a map may have: on gist rows, and on all.
inline constexpr std::size_t most_loras = 2;

/// The rows of a batch to which LoRA applies.
template <MemorySpace Space>
struct lora_rows {
  bool all = true;
  vector_view<const std::int32_t, Space> rows = {};  ///< If not all.
  bool drop = false;                                 ///< Dropout is on.
  std::uint64_t seed = 0;                            ///< Of dropout, for this pass.
  bool of_teacher = false;  ///< With the factors of keep_for_teacher, or none; forward only.

  index_t count(index_t n) const { return all ? n : rows.extent(0); }
};

/// What each LoRA of a trainable_linear leaves in its forward pass for the backward pass.
template <class T, MemorySpace Space>
using lora_activations = std::array<matrix_view<T, Space>, most_loras>;

/// One of several maps side by side: columns [begin, begin + rows) of what they give.
struct linear_part {
  std::string name;  ///< As a target of LoRA: "query".
  index_t begin = 0;
  index_t rows = 0;
};

/// The LoRA of maps of one activation side by side: y_i += scale B_i A_i x for some rows x, with
/// its backward pass.
template <class B, class T>
requires Trains<B, T>
class trainable_lora {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;
  using const_matrix = matrix_view<const T, space>;

  /// @param prefix  of the names of parameters: "blocks.0."
  /// @param cols    of the maps
  trainable_lora(parameter_set<B, T>& set, const std::string& prefix,
                 std::span<const linear_part> maps, index_t cols, const lora_options& lora)
      : be_(&set.backend()), cols_(cols) {
    for (const linear_part& m : maps) parts_.push_back({m, 0, 0, nullptr, {}});
    std::vector<float> a;
    std::string names;
    const std::string beside = lora.name == lora_options().name ? "" : "." + lora.name;
    for (part& p : parts_) {
      if (!lora.has(p.name)) continue;
      p.rank = lora.rank;
      p.rank_begin = total_rank_;
      total_rank_ += lora.rank;
      names += (names.empty() ? "" : "+") + p.name;
      // Uniform as in the authors' and in Hugging Face's code: variance 1 / (3 in).
      xxh64 name_hash(lora.seed);
      random_generator random(name_hash.update(prefix + p.name + beside).digest());
      const double bound = 1.0 / std::sqrt(static_cast<double>(cols_));
      for (index_t i = 0; i < lora.rank * cols_; ++i) {
        a.push_back(static_cast<float>(random.uniform(-bound, bound)));
      }
    }
    if (total_rank_ == 0) return;
    scale_ = lora.alpha / static_cast<double>(lora.rank);
    dropout_ = lora.dropout;
    xxh64 stream(lora.seed + 1);
    stream_ = stream.update(prefix + names + beside).digest();
    a_ = &set.add(prefix + names + "." + lora.name + "_a", lora.kind, total_rank_, cols_, a);
    for (part& p : parts_) {
      if (p.rank == 0) continue;
      const std::vector<float> zeros(static_cast<std::size_t>(p.rank * p.rows), 0.0F);
      p.b = &set.add(prefix + p.name + "." + lora.name + "_b", lora.kind, p.rank, p.rows, zeros);
    }
  }

  /// Columns of `down`; 0 where no map is a target.
  index_t total_rank() const { return total_rank_; }

  /// Bytes of scratch for n rows of maps with so many columns of y together.
  std::size_t workspace_size(index_t n, index_t width) const {
    return total_rank_ == 0 ? 0
                            : 3 * workspace<B>::template bytes_for<T>(n * cols_) +
                                  workspace<B>::template bytes_for<T>(n * width) +
                                  workspace<B>::template bytes_for<T>(n * total_rank_);
  }

  /// @param[in,out] o     [n, all columns of y]
  /// @param[in]     x     [n, cols]
  /// @param[out]    down  [on.count(n), total_rank()], for backward
  void forward(matrix o, const_matrix x, matrix down, const lora_rows<space>& on,
               workspace<B>& scratch) {
    if (total_rank_ == 0 || on.count(x.extent(0)) == 0) return;
    if (on.of_teacher && teacher_a_.size() == 0) return;
    const typename workspace<B>::scope scope(scratch);
    const const_matrix read = lora_input(x, on, scratch);
    const auto factor = [&on](const parameter<B, T>& p, const buffer<T, B>& kept) {
      return one(on.of_teacher ? const_matrix(kept.view({p.rows, p.cols})) : p.matrix());
    };
    ops::matmul<B, T>(*be_, one(down), one(read), factor(*a_, teacher_a_), {.transpose_b = true});
    // No row is named twice: what is taken out may be put back.
    const matrix to = on.all ? o : scratch.template take<T>({read.extent(0), o.extent(1)});
    if (!on.all) ops::gather_rows<B, T>(*be_, to, o, on.rows);
    for (const part& p : parts_) {
      if (p.rank == 0) continue;
      ops::matmul<B, T>(*be_, one(to.slice(1, p.begin, p.rows)),
                        one(const_matrix(down.slice(1, p.rank_begin, p.rank))),
                        factor(*p.b, p.teacher_b), {.accumulate = true, .alpha = scale_});
    }
    if (!on.all) ops::scatter_rows<B, T>(*be_, o, to, on.rows);
  }

  /// dx += (derivatives of the above), and the gradients of the factors.
  void backward(matrix dx, const_matrix dy, const_matrix x, const_matrix down,
                const lora_rows<space>& on, workspace<B>& scratch) {
    if (total_rank_ == 0 || on.count(dy.extent(0)) == 0) return;
    const typename workspace<B>::scope scope(scratch);
    const const_matrix read = lora_input(x, on, scratch);
    const index_t m = read.extent(0);
    const_matrix gradient = dy;
    if (!on.all) {
      const matrix gathered = scratch.template take<T>({m, dy.extent(1)});
      ops::gather_rows<B, T>(*be_, gathered, dy, on.rows);
      gradient = gathered;
    }
    const matrix d_down = scratch.template take<T>({m, total_rank_});
    for (const part& p : parts_) {
      if (p.rank == 0) continue;
      const const_matrix columns = gradient.slice(1, p.begin, p.rows);
      ops::matmul<B, T>(*be_, one(d_down.slice(1, p.rank_begin, p.rank)), one(columns),
                        one(const_matrix(p.b->matrix())), {.transpose_b = true, .alpha = scale_});
      ops::accumulate_products<B, T>(*be_, p.b->gradient_matrix(),
                                     down.slice(1, p.rank_begin, p.rank), columns, scale_);
    }
    ops::accumulate_products<B, T>(*be_, a_->gradient_matrix(), d_down, read);
    const bool drop = on.drop && dropout_ > 0.0;
    const matrix to = on.all ? dx : scratch.template take<T>({m, cols_});
    if (!on.all) ops::gather_rows<B, T>(*be_, to, dx, on.rows);
    if (drop) {
      const matrix d_read = scratch.template take<T>({m, cols_});
      ops::matmul<B, T>(*be_, one(d_read), one(const_matrix(d_down)),
                        one(const_matrix(a_->matrix())));
      ops::dropout<B, T>(*be_, d_read, d_read, {dropout_, seed(on)});
      ops::add<B, T>(*be_, to, to, d_read);
    } else {
      ops::matmul<B, T>(*be_, one(to), one(const_matrix(d_down)), one(const_matrix(a_->matrix())),
                        {.accumulate = true});
    }
    if (!on.all) ops::scatter_rows<B, T>(*be_, dx, to, on.rows);
  }

  /// Appends the factors, those of layer `layer`.
  void save(index_t layer, std::vector<model::low_rank>& out) const {
    if (total_rank_ == 0) return;
    const auto a = a_->exact().to_host();
    for (const part& p : parts_) {
      if (p.rank == 0) continue;
      const auto b = p.b->exact().to_host();
      model::low_rank f{layer, p.name, p.rank, p.rows, cols_, {}, {}};
      for (index_t i = p.rank_begin * cols_; i < (p.rank_begin + p.rank) * cols_; ++i) {
        f.a.push_back(static_cast<float>(a[static_cast<std::size_t>(i)]));
      }
      for (index_t r = 0; r < p.rows; ++r) {
        for (index_t i = 0; i < p.rank; ++i) {
          f.b.push_back(static_cast<float>(b[static_cast<std::size_t>(i * p.rows + r)]));
        }
      }
      out.push_back(std::move(f));
    }
  }

  /// Takes over factors that were trained before, or only checks that they fit; where there are
  /// none it stays as it is. @throws shape_error.
  void load(index_t layer, std::span<const model::low_rank> from, load_step step) {
    if (total_rank_ == 0) return;
    std::vector<number> a;
    if (step == load_step::take_over) a = a_->exact().to_host();
    for (const part& p : parts_) {
      for (const model::low_rank& f : from) {
        if (f.layer != layer || f.target != p.name) continue;
        model::expect_fits(f, p.rows, cols_);
        if (f.rank != p.rank) {
          throw shape_error("LoRA of layer " + std::to_string(layer) + " " + p.name +
                            " is of rank " + std::to_string(f.rank) + ", expected " +
                            std::to_string(p.rank));
        }
        if (step == load_step::check) continue;
        std::copy(f.a.begin(), f.a.end(), a.begin() + p.rank_begin * cols_);
        std::vector<number> b(f.b.size());
        for (index_t r = 0; r < p.rows; ++r) {
          for (index_t i = 0; i < p.rank; ++i) {
            b[static_cast<std::size_t>(i * p.rows + r)] =
                static_cast<number>(f.b[static_cast<std::size_t>(r * p.rank + i)]);
          }
        }
        p.b->assign(*be_, b);
      }
    }
    if (step == load_step::take_over) a_->assign(*be_, a);
  }
  /// A teacher has the factors as they are now, whatever becomes of them.
  void keep_for_teacher() {
    if (total_rank_ == 0) return;
    teacher_a_ = copy_of(a_->value);
    for (part& p : parts_) {
      if (p.rank > 0) p.teacher_b = copy_of(p.b->value);
    }
  }

 private:
  using number = accumulate_t<T>;
  struct part : linear_part {
    index_t rank_begin = 0;  ///< Columns of `down`.
    index_t rank = 0;
    parameter<B, T>* b = nullptr;  ///< Transposed: [rank, rows].
    buffer<T, B> teacher_b;
  };

  static tensor_view<T, 3, space> one(matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  static tensor_view<const T, 3, space> one(const_matrix m) {
    return {m.data(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}};
  }
  std::uint64_t seed(const lora_rows<space>& on) const {
    return splitmix64(on.seed) + splitmix64(stream_);
  }

  buffer<T, B> copy_of(const buffer<T, B>& from) const {
    buffer<T, B> to(*be_, from.size());
    be_->copy(to.data(), from.data(), from.bytes());
    return to;
  }

  /// What A multiplies: the rows of LoRA, some elements dropped.
  const_matrix lora_input(const_matrix x, const lora_rows<space>& on, workspace<B>& scratch) {
    const bool drop = on.drop && dropout_ > 0.0;
    if (on.all && !drop) return x;
    const matrix read = scratch.template take<T>({on.count(x.extent(0)), cols_});
    if (!on.all) ops::gather_rows<B, T>(*be_, read, x, on.rows);
    if (drop) {
      ops::dropout<B, T>(*be_, read, on.all ? x : const_matrix(read), {dropout_, seed(on)});
    }
    return read;
  }

  B* be_;
  index_t cols_ = 0;
  std::vector<part> parts_;
  parameter<B, T>* a_ = nullptr;
  buffer<T, B> teacher_a_;
  index_t total_rank_ = 0;
  double scale_ = 0.0;
  double dropout_ = 0.0;
  std::uint64_t stream_ = 0;
};

}  // namespace gistkv::train
