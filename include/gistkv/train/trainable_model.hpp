// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/workspace.hpp>
#include <gistkv/mask/sentence.hpp>
#include <gistkv/model/adapter.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/train/batch.hpp>
#include <gistkv/train/hidden_distance.hpp>
#include <gistkv/train/language_head.hpp>
#include <gistkv/train/model_options.hpp>
#include <gistkv/train/teacher.hpp>
#include <gistkv/train/trainable_block.hpp>

namespace gistkv::train {

/// A whole decoder with its backward pass, on the sentence mask in its two-span form: memory grows
/// with the number of rows, never with its square, and logits exist for a few rows at a time.
template <class B, class T = element_t<B>>
requires Trains<B, T>
class trainable_model {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;

  /// Packs the weights. @throws shape_error, argument_error, also as validate(lora_options).
  trainable_model(B& be, const model::host_model& source, const model::gist_rows& gists,
                  const model_options& options)
      : be_(&be),
        config_(source.config),
        options_(options),
        set_(be),
        distance_(be, source.config.d_model, source.config.norm_eps) {
    validate(source);
    validate(gists, config_);
    if (gists.n_gist != options.rule.n_gist) {
      throw argument_error("trainable model: " + std::to_string(gists.n_gist) +
                           " gist rows, the rule has " + std::to_string(options.rule.n_gist));
    }
    const bool all = options.trained == trained_weights::all;
    const index_t d = config_.d_model;
    gists_ = &set_.add("gist.input", parameter_kind::gist, gists.n_gist, d, gists.input);
    gist_head_ = gists_;
    if (!gists.head.empty()) {
      gist_head_ = &set_.add("gist.head", parameter_kind::gist, gists.n_gist, d, gists.head);
    }
    {
      const std::vector<float> table = floats_of(source.token_embedding);
      if (all) {
        trained_table_ = &set_.add("embedding", parameter_kind::weight, config_.n_vocab, d, table);
      } else {
        const std::vector<T> converted(table.begin(), table.end());
        table_ = buffer<T, B>(be, std::span<const T>(converted));
      }
    }
    parameter<B, T>* head = nullptr;
    if (all) {
      head = config_.tied_head ? trained_table_
                               : &set_.add("head", parameter_kind::weight, config_.n_vocab, d,
                                           floats_of(source.head.weight));
    }
    head_.emplace(be,
                  config_.tied_head ? model::host_linear{source.token_embedding, {}} : source.head,
                  head, gist_head_);
    std::vector<lora_options> lora;
    if (options.trained == trained_weights::lora) {
      validate(options.lora);
      lora.push_back(options.lora);
      if (options.lora_on_all_rows) add_second(lora, *options.lora_on_all_rows);
    }
    n_loras_ = lora.size();
    for (std::size_t l = 0; l < source.blocks.size(); ++l) {
      blocks_.push_back(std::make_unique<trainable_block<B, T>>(
          set_, config_, source.blocks[l], "blocks." + std::to_string(l) + ".", all, lora));
    }
    if (all) {
      trained_norm_ =
          &set_.add("final_norm", parameter_kind::norm, 1, d, floats_of(source.final_norm));
    } else {
      final_norm_ = model::load_vector<T>(be, source.final_norm);
    }
    std::vector<float> f = rope_frequencies(config_.rope, config_.head_dim);
    frequencies_ = buffer<float, B>(be, std::span<const float>(f));
    for (float& x : f) x = -x;
    negated_ = buffer<float, B>(be, std::span<const float>(f));
  }

  B& backend() const { return *be_; }
  const model::model_config& config() const { return config_; }
  const model_options& options() const { return options_; }
  parameter_set<B, T>& parameters() { return set_; }

  /// Sum of the weighted losses of a batch; gradients are added to what the parameters have. What a
  /// teacher adds for hidden states is their mean distance over blocks and rows, times
  /// lesson::hidden and the sum of all weights. @throws shape_error for that of another batch, and
  /// for a batch or a teacher made for another vocabulary or number of gists.
  /// @param scale  multiplies every weight: 1 / their sum over the global batch
  /// @param seed   of dropout; a pass of its own wants a number of its own
  double forward_backward(const batch<B>& b, double scale, std::uint64_t seed,
                          const teacher<B>* teach = nullptr) {
    return run(b, scale, loras_of(b, true, seed), true, teach);
  }

  /// The same sum without gradients; nothing is dropped.
  double loss(const batch<B>& b, double scale, const teacher<B>* teach = nullptr) {
    return run(b, scale, loras_of(b, false, 0), false, teach);
  }

  /// What has been learned, but for trained_weights::all.
  model::adapter save() const {
    model::adapter out;
    const auto rows = [](const parameter<B, T>& p) {
      const auto values = p.exact().to_host();
      return std::vector<float>(values.begin(), values.end());
    };
    out.gists = {gists_->rows, rows(*gists_), {}};
    if (gist_head_ != gists_) out.gists.head = rows(*gist_head_);
    if (options_.trained != trained_weights::lora) return out;
    model::lora& first = options_.lora.gist_rows_only ? out.on_gist_rows : out.on_all_rows;
    first = {options_.lora.alpha, factors(0)};
    if (options_.lora_on_all_rows) {
      out.on_all_rows = {options_.lora_on_all_rows->alpha, factors(1)};
    }
    return out;
  }
  /// LoRA to go on from, as `save` gives it; what is not there stays as it is. LoRA on all rows
  /// that is not trained belongs to the weights that this was made of.
  /// @throws argument_error for LoRA on gist rows that is not trained, and as expect_trained;
  ///         shape_error. On either nothing has changed.
  void load(const model::adapter& from) {
    const bool on_gist_rows = n_loras_ > 0 && options_.lora.gist_rows_only;
    if (!on_gist_rows && !from.on_gist_rows.empty()) {
      throw argument_error(
          "trainable model: LoRA on gist rows to go on from, which is not trained");
    }
    for (const load_step step : {load_step::check, load_step::take_over}) {
      for (std::size_t i = 0; i < n_loras_; ++i) {
        const model::lora& l = i == 0 && on_gist_rows ? from.on_gist_rows : from.on_all_rows;
        load(l.factors, i, l.alpha, step);
      }
    }
  }

  /// Low-rank factors as they are now, of LoRA 0, model_options::lora, or 1, lora_on_all_rows.
  std::vector<model::low_rank> factors(std::size_t lora = 0) const {
    std::vector<model::low_rank> all;
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      blocks_[l]->save(static_cast<index_t>(l), lora, all);
    }
    return all;
  }
  /// Low-rank factors to go on from. @throws as expect_trained; shape_error; then nothing changed.
  void load(std::span<const model::low_rank> factors, std::size_t lora = 0) {
    if (factors.empty()) return;
    if (lora >= n_loras_) {
      throw argument_error("trainable model: factors of LoRA " + std::to_string(lora) +
                           ", there are " + std::to_string(n_loras_));
    }
    for (const load_step step : {load_step::check, load_step::take_over}) {
      load(factors, lora, lora_at(lora).alpha, step);
    }
  }
  /// From now on a teacher has LoRA on all rows as it is now; a new model's teacher has none.
  void keep_for_teacher() {
    const std::size_t first = options_.lora.gist_rows_only ? 1 : 0;
    for (auto& block : blocks_) {
      for (std::size_t i = first; i < n_loras_; ++i) block->keep_for_teacher(i);
    }
  }

  /// Bytes of activations and scratch that are held.
  std::size_t workspace_bytes() const { return memory_.bytes(); }

 private:
  using lora_passes = std::span<const lora_rows<space>>;

  const lora_options& lora_at(std::size_t i) const {
    return i == 0 ? options_.lora : *options_.lora_on_all_rows;
  }
  void load(std::span<const model::low_rank> factors, std::size_t i, double alpha, load_step step) {
    const lora_options& o = lora_at(i);
    expect_trained(factors, alpha, o, blocks_.size(),
                   o.gist_rows_only ? "LoRA on gist rows" : "LoRA on all rows");
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      blocks_[l]->load(static_cast<index_t>(l), i, factors, step);
    }
  }
  void add_second(std::vector<lora_options>& lora, const lora_options& second) const {
    if (!options_.lora.gist_rows_only || second.gist_rows_only ||
        second.name == options_.lora.name) {
      throw argument_error(
          "trainable model: LoRA on all rows beside another one wants that to be "
          "on gist rows, and a name of its own");
    }
    validate(second);
    lora.push_back(second);
    lora.back().kind = parameter_kind::second_lora;
  }

  /// The rows of each LoRA.
  std::vector<lora_rows<space>> loras_of(const batch<B>& b, bool drop, std::uint64_t seed) const {
    std::vector<lora_rows<space>> loras(n_loras_, {true, {}, drop, seed});
    if (n_loras_ > 0 && options_.lora.gist_rows_only) {
      loras.front().all = false;
      loras.front().rows = b.gist_rows.view({b.n_gists()});
    }
    return loras;
  }
  /// Of a teacher, which has no gists.
  std::vector<lora_rows<space>> loras_of_teacher() const {
    std::vector<lora_rows<space>> loras(n_loras_, {true, {}, false, 0, true});
    if (n_loras_ > 0 && options_.lora.gist_rows_only) loras.front().all = false;
    return loras;
  }
  rotation<B> rotation_of(const batch<B>& b) const {
    return {b.positions.view({b.n}),
            frequencies_.view({frequencies_.size()}),
            negated_.view({negated_.size()}),
            {rope_magnitude(config_.rope)}};
  }
  vector_view<const T, space> final_norm() const {
    const auto& b = trained_norm_ != nullptr ? trained_norm_->value : final_norm_;
    return b.view({b.size()});
  }
  void copy(matrix to, matrix from) {
    be_->copy(to.data(), from.data(), static_cast<std::size_t>(to.size()) * sizeof(T));
  }

  std::size_t bytes_needed(const batch<B>& b, lora_passes lora, bool backward) const {
    const auto bytes = [](index_t n) { return workspace<B>::template bytes_for<T>(n); };
    const std::size_t one = blocks_.front()->activation_bytes(b.n, lora);
    const std::size_t row = bytes(b.n * config_.d_model);
    std::size_t sum = one;
    if (backward) sum = options_.recompute ? one + blocks_.size() * row : blocks_.size() * one;
    return sum + 5 * row + bytes(b.n_gists() * config_.d_model) +
           std::max(blocks_.front()->workspace_size(b), head_->workspace_size(true));
  }
  /// What a teacher takes on top.
  std::size_t bytes_needed(const batch<B>& b, const teacher<B>& teach, bool backward) const {
    const auto row = [this](index_t n) {
      return workspace<B>::template bytes_for<T>(n * config_.d_model);
    };
    const std::size_t n_kept = teach.wanted.hidden == 0.0 ? 0 : backward ? blocks_.size() : 1;
    return row(teach.plain.n) +
           blocks_.front()->activation_bytes(teach.plain.n, loras_of_teacher()) +
           n_kept * row(b.n) +
           std::max(blocks_.front()->workspace_size(teach.plain),
                    distance_.workspace_size(b.n, b.n_gists()));
  }
  void make_room(std::size_t n_bytes) {
    if (memory_.bytes() >= n_bytes) return;
    memory_ = {};
    memory_ = workspace<B>(*be_, n_bytes);
  }

  void embed(matrix x, const batch<B>& b) {
    const auto& table = trained_table_ != nullptr ? trained_table_->value : table_;
    ops::gather_rows<B, T>(*be_, x, table.view({config_.n_vocab, config_.d_model}),
                           b.tokens.view({b.n}));
    if (b.n_gists() == 0) return;
    const typename workspace<B>::scope scope(memory_);
    const matrix rows = memory_.template take<T>({b.n_gists(), config_.d_model});
    ops::gather_rows<B, T>(*be_, rows, gists_->matrix(), b.gists.view({b.n_gists()}));
    ops::scatter_rows<B, T>(*be_, x, rows, b.gist_rows.view({b.n_gists()}));
  }

  double run(const batch<B>& b, double scale, lora_passes lora, bool backward,
             const teacher<B>* teach) {
    b.expect_made_for(config_.n_vocab, gists_->rows);
    if (teach != nullptr) teach->plain.expect_made_for(config_.n_vocab, gists_->rows);
    if (teach != nullptr) teach->expect_same_text(b);
    if (b.n == 0) return 0;
    std::size_t need = bytes_needed(b, lora, backward);
    if (teach != nullptr) need += bytes_needed(b, *teach, backward);
    make_room(need);
    const typename workspace<B>::scope scope(memory_);
    // The teacher goes along block by block: without gists, and with LoRA as keep_for_teacher found
    // it. Its weights are those before training, but for trained_weights::all.
    const std::vector<lora_rows<space>> of_teacher = loras_of_teacher();
    matrix taught;
    block_activations<T, space> not_kept;
    if (teach != nullptr) {
      taught = memory_.template take<T>({teach->plain.n, config_.d_model});
      not_kept = blocks_.front()->reserve(memory_, teach->plain.n, of_teacher);
      embed(taught, teach->plain);
    }
    const bool compare = teach != nullptr && teach->wanted.hidden > 0.0;
    std::vector<matrix> away;
    double distance = 0;
    const matrix x = memory_.template take<T>({b.n, config_.d_model});
    embed(x, b);
    const rotation<B> rope = rotation_of(b);
    std::vector<block_activations<T, space>> kept;
    std::vector<matrix> inputs;
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      const bool own = backward && !options_.recompute;
      if (own || l == 0) kept.push_back(blocks_[l]->reserve(memory_, b.n, lora));
      if (backward && options_.recompute) {
        inputs.push_back(memory_.template take<T>({b.n, config_.d_model}));
        copy(inputs.back(), x);
      }
      blocks_[l]->forward(x, kept.back(), b, rope, lora, memory_);
      if (teach == nullptr) continue;
      const batch<B>& plain = teach->plain;
      blocks_[l]->forward(taught, not_kept, plain, rotation_of(plain), of_teacher, memory_);
      if (!compare) continue;
      if (backward || l == 0) away.push_back(memory_.template take<T>({b.n, config_.d_model}));
      distance += distance_(away.back(), x, taught, teach->rows.view({teach->rows.size()}),
                            b.gist_rows.view({b.n_gists()}), memory_);
    }
    const matrix hidden = memory_.template take<T>({b.n, config_.d_model});
    ops::norm<B, T>(*be_, hidden, x, final_norm(), {}, {config_.norm, config_.norm_eps});

    std::vector<float> weights;
    for (const float w : b.weights) weights.push_back(static_cast<float>(scale) * w);
    head_targets targets{b.target_rows, b.targets, weights, {}, 0.0};
    if (teach != nullptr && teach->wanted.mix > 0.0) {
      ops::norm<B, T>(*be_, taught, taught, final_norm(), {}, {config_.norm, config_.norm_eps});
      targets.teacher_rows = teach->target_rows;
      targets.mix = teach->wanted.mix;
    }
    matrix d_hidden;
    if (backward) {
      d_hidden = memory_.template take<T>({b.n, config_.d_model});
      ops::clear<B, T>(*be_, d_hidden);
    }
    double loss = head_->loss(hidden, d_hidden, targets, taught, memory_);
    double distance_weight = 0;
    if (compare) {
      const double sum = std::accumulate(b.weights.begin(), b.weights.end(), 0.0);
      const auto n = static_cast<double>(blocks_.size()) * static_cast<double>(teach->plain.n);
      distance_weight = teach->wanted.hidden * scale * sum / n;
      loss += distance_weight * distance;
    }
    if (!backward) return loss;

    const matrix d = memory_.template take<T>({b.n, config_.d_model});
    ops::clear<B, T>(*be_, d);
    vector_view<accumulate_t<T>, space> d_norm;
    if (trained_norm_ != nullptr) d_norm = trained_norm_->flat(trained_norm_->gradient);
    ops::norm_backward<B, T>(*be_, d, d_norm, d_hidden, x, final_norm(),
                             {config_.norm, config_.norm_eps});
    for (std::size_t l = blocks_.size(); l-- > 0;) {
      if (options_.recompute) {
        copy(x, inputs[l]);
        blocks_[l]->forward(x, kept.back(), b, rope, lora, memory_);
      }
      if (compare) {
        const bool last = l + 1 == blocks_.size();
        distance_.backward(d, away[l], last || options_.recompute ? x : kept[l + 1].x,
                           distance_weight, memory_);
      }
      blocks_[l]->backward(d, options_.recompute ? kept.back() : kept[l], b, rope, lora, memory_);
    }
    if (trained_table_ != nullptr) {
      ops::scatter_add_rows<B, T>(*be_, trained_table_->gradient_matrix(), d,
                                  b.table_rows.view({b.n}));
    }
    if (b.n_gists() > 0) {
      const matrix rows = memory_.template take<T>({b.n_gists(), config_.d_model});
      ops::gather_rows<B, T>(*be_, rows, d, b.gist_rows.view({b.n_gists()}));
      ops::scatter_add_rows<B, T>(*be_, gists_->gradient_matrix(), rows,
                                  b.gists.view({b.n_gists()}));
    }
    return loss;
  }

  B* be_;
  model::model_config config_;
  model_options options_;
  parameter_set<B, T> set_;
  parameter<B, T>* gists_ = nullptr;
  parameter<B, T>* gist_head_ = nullptr;
  parameter<B, T>* trained_table_ = nullptr;
  parameter<B, T>* trained_norm_ = nullptr;
  buffer<T, B> table_;
  buffer<T, B> final_norm_;
  std::optional<language_head<B, T>> head_;
  std::vector<std::unique_ptr<trainable_block<B, T>>> blocks_;
  std::size_t n_loras_ = 0;
  buffer<float, B> frequencies_;
  buffer<float, B> negated_;
  hidden_distance<B, T> distance_;
  workspace<B> memory_;
};

}  // namespace gistkv::train
