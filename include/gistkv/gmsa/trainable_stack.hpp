// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gistkv/core/workspace.hpp>
#include <gistkv/model/host_model.hpp>
#include <gistkv/model/rope_frequencies.hpp>
#include <gistkv/ops/backward.hpp>
#include <gistkv/ops/norm.hpp>
#include <gistkv/train/trainable_block.hpp>

namespace gistkv::gmsa {

/// Layers and final norm of one of the three parts, with their backward pass.
template <class B, class T>
requires Trains<B, T>
class trainable_stack {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;

  /// What a forward pass keeps for the backward pass.
  struct kept_rows {
    std::vector<train::block_activations<T, space>> blocks;
    matrix x;       ///< [n, d_model], behind the last block
    matrix hidden;  ///< [n, d_model], behind the norm
  };

  /// @param train_blocks  the weights of the blocks, norms included, are parameters
  /// @param train_norm    so is the final norm
  /// @throws shape_error, argument_error as validate(host_model), and for weights that do not fit.
  trainable_stack(train::parameter_set<B, T>& set, const model::host_model& m,
                  const std::string& prefix, bool train_blocks, bool train_norm,
                  std::span<const train::lora_options> lora)
      : be_(&set.backend()), config_(m.config) {
    validate(m);
    for (std::size_t l = 0; l < m.blocks.size(); ++l) {
      blocks_.push_back(std::make_unique<train::trainable_block<B, T>>(
          set, config_, m.blocks[l], prefix + std::to_string(l) + ".", train_blocks, lora));
    }
    if (train_norm) {
      trained_norm_ = &set.add(prefix + "norm", train::parameter_kind::norm, 1, config_.d_model,
                               train::floats_of(m.final_norm));
    } else {
      norm_ = model::load_vector<T>(*be_, m.final_norm);
    }
    std::vector<float> f = rope_frequencies(config_.rope, config_.head_dim);
    frequencies_ = buffer<float, B>(*be_, std::span<const float>(f));
    for (float& x : f) x = -x;
    negated_ = buffer<float, B>(*be_, std::span<const float>(f));
  }

  /// Bytes that forward takes and leaves taken.
  std::size_t kept_bytes(const train::batch<B>& b, bool backward) const {
    const std::size_t row = workspace<B>::template bytes_for<T>(b.n * config_.d_model);
    const train::lora_rows<space> all;
    return (backward ? blocks_.size() : 1) * blocks_.front()->activation_bytes(b.n, {&all, 1}) +
           row;
  }
  /// Bytes that either pass takes and gives back.
  std::size_t workspace_size(const train::batch<B>& b) const {
    return blocks_.front()->workspace_size(b) +
           workspace<B>::template bytes_for<T>(b.n * config_.d_model);
  }

  /// Transforms x in place and leaves the normed rows in `hidden` of what it returns.
  /// @param backward  a backward pass follows
  kept_rows forward(matrix x, const train::batch<B>& b, const train::lora_rows<space>& lora,
                    bool backward, workspace<B>& memory) {
    kept_rows kept;
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      if (backward || l == 0) kept.blocks.push_back(blocks_[l]->reserve(memory, b.n, {&lora, 1}));
      blocks_[l]->forward(x, kept.blocks.back(), b, rotation(b), {&lora, 1}, memory);
    }
    kept.x = x;
    kept.hidden = memory.template take<T>({b.n, config_.d_model});
    ops::norm<B, T>(*be_, kept.hidden, x, norm(), {}, {config_.norm, config_.norm_eps});
    return kept;
  }

  /// The derivative with respect to x, from that with respect to the normed rows, in place.
  /// Overwrites what was kept.
  void backward(matrix d, kept_rows& kept, const train::batch<B>& b,
                const train::lora_rows<space>& lora, workspace<B>& memory) {
    const typename workspace<B>::scope scope(memory);
    const matrix d_x = kept.hidden;  // It is not needed any more.
    ops::clear<B, T>(*be_, d_x);
    vector_view<T, space> d_norm;
    if (trained_norm_ != nullptr) d_norm = trained_norm_->flat(trained_norm_->gradient);
    ops::norm_backward<B, T>(*be_, d_x, d_norm, d, kept.x, norm(),
                             {config_.norm, config_.norm_eps});
    be_->copy(d.data(), d_x.data(), static_cast<std::size_t>(d.size()) * sizeof(T));
    for (std::size_t l = blocks_.size(); l-- > 0;) {
      blocks_[l]->backward(d, kept.blocks[l], b, rotation(b), {&lora, 1}, memory);
    }
  }

  /// The factors of LoRA.
  std::vector<model::low_rank> lora() const {
    std::vector<model::low_rank> out;
    for (std::size_t l = 0; l < blocks_.size(); ++l) {
      blocks_[l]->save(static_cast<index_t>(l), 0, out);
    }
    return out;
  }
  void load(std::span<const model::low_rank> factors) {
    for (const auto step : {train::load_step::check, train::load_step::take_over}) {
      for (std::size_t l = 0; l < blocks_.size(); ++l) {
        blocks_[l]->load(static_cast<index_t>(l), 0, factors, step);
      }
    }
  }

 private:
  vector_view<const T, space> norm() const {
    const auto& b = trained_norm_ != nullptr ? trained_norm_->value : norm_;
    return b.view({b.size()});
  }
  train::rotation<B> rotation(const train::batch<B>& b) const {
    return {b.positions.view({b.n}),
            frequencies_.view({frequencies_.size()}),
            negated_.view({negated_.size()}),
            {rope_magnitude(config_.rope)}};
  }

  B* be_;
  model::model_config config_;
  std::vector<std::unique_ptr<train::trainable_block<B, T>>> blocks_;
  train::parameter<B, T>* trained_norm_ = nullptr;
  buffer<T, B> norm_;
  buffer<float, B> frequencies_;
  buffer<float, B> negated_;
};

}  // namespace gistkv::gmsa
