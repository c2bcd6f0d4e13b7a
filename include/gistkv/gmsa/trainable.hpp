// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/buffer.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/gmsa/group_merge.hpp>
#include <gistkv/gmsa/sample.hpp>
#include <gistkv/gmsa/trainable_stack.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/ops/clear.hpp>
#include <gistkv/train/batch.hpp>
#include <gistkv/train/language_head.hpp>
#include <gistkv/train/parameters.hpp>

namespace gistkv::gmsa {

/// What is learned.
enum class stage {
  restoring,  ///< Stage 1: LoRA of the encoder, its slots where it has some, and the alignment's
              ///< layers; the decoder is constant.
  answering,  ///< Stage 2, KEFT: query, key and value weights of the decoder; all else is constant.
  decoder,    ///< Stage 2 as in the official code: all weights of the decoder.
  decoder_lora  ///< Stage 2 by LoRA: low-rank changes of the decoder's maps.
};

struct training_options {
  gmsa::stage stage = stage::restoring;
  train::lora_options lora = {.rank = 128, .alpha = 32.0, .dropout = 0.05};  ///< Of the encoder.
  /// Of the decoder, in its stage: of the maps that KEFT trains.
  train::lora_options decoder_lora = {
      .rank = 16, .alpha = 32.0, .dropout = 0.05, .targets = {"query", "key", "value"}};
};

/// Encoder, alignment and decoder with their backward pass. The loss is that of the labels alone;
/// soft tokens and prompts are no targets. Samples of a batch are packed: each is what it is alone.
template <class B, class T = element_t<B>>
requires Trains<B, T>
class trainable_gmsa {
 public:
  using space = space_of<B>;
  using matrix = matrix_view<T, space>;

  /// LoRA of the parts, where there is some, is where that which is trained begins.
  /// @throws argument_error for a linear alignment, and LoRA that was trained with another alpha or
  /// on maps that the options leave out, and as validate(lora_options); shape_error, also for LoRA
  /// of another rank.
  trainable_gmsa(B& be, const host_parts& parts, const training_options& options)
      : be_(&be),
        options_(options),
        config_(parts.decoder.config),
        d_(config_.d_model),
        merging_(parts.merging),
        set_(be) {
    if (parts.alignment.blocks.empty() && !parts.linear.weight.empty()) {
      throw argument_error("gmsa training: a linear alignment is not trained");
    }
    const bool restoring = options.stage == stage::restoring;
    const bool by_lora = options.stage == stage::decoder_lora;
    if (restoring) train::validate(options.lora);
    if (by_lora) train::validate(options.decoder_lora);
    // LoRA that is not trained is merged.
    const model::host_model decoder = by_lora ? parts.decoder : decoder_of(parts);
    n_vocab_ = decoder.token_embedding.rows;
    encoder_table_ = table_of(parts.encoder.token_embedding);
    if (!parts.slots.empty()) {
      slots_ = &set_.add("encoder.slots", train::parameter_kind::gist, parts.slots.rows, d_,
                         train::floats_of(parts.slots));
    }
    train::parameter<B, T>* head = nullptr;
    if (options.stage == stage::decoder) {
      trained_table_ = &set_.add("decoder.table", train::parameter_kind::weight, n_vocab_, d_,
                                 train::floats_of(decoder.token_embedding));
      head = decoder.config.tied_head
                 ? trained_table_
                 : &set_.add("decoder.head", train::parameter_kind::weight, n_vocab_, d_,
                             train::floats_of(decoder.head.weight));
    } else {
      table_ = table_of(decoder.token_embedding);
    }
    head_.emplace(
        be, config_.tied_head ? model::host_linear{decoder.token_embedding, {}} : decoder.head,
        head, nullptr);
    encoder_.emplace(set_, restoring ? parts.encoder : compressor_of(parts).encoder, "encoder.",
                     false, false, some_if(restoring, options_.lora));
    if (!parts.alignment.blocks.empty()) {
      alignment_.emplace(set_, parts.alignment, "alignment.", restoring, false,
                         std::span<const train::lora_options>());
    }
    decoder_.emplace(set_, decoder, "decoder.", !restoring && !by_lora,
                     options.stage == stage::decoder, some_if(by_lora, options_.decoder_lora));
    if (restoring) {
      train::expect_trained(parts.encoder_lora, parts.lora_alpha, options_.lora,
                            parts.encoder.blocks.size(), "gmsa training: LoRA of the encoder");
      encoder_->load(parts.encoder_lora);
    }
    if (by_lora) {
      train::expect_trained(parts.decoder_lora, parts.decoder_lora_alpha, options_.decoder_lora,
                            decoder.blocks.size(), "gmsa training: LoRA of the decoder");
      decoder_->load(parts.decoder_lora);
    }
    for (std::size_t i = 0; i < set_.size(); ++i) set_[i].trained = trains(set_[i].name);
  }

  const model::model_config& config() const { return config_; }
  const training_options& options() const { return options_; }
  /// Where a block is trained in part, its other weights are here too, but not trained.
  train::parameter_set<B, T>& parameters() { return set_; }

  /// Sum over the labels of scale times the loss of each; gradients are added to those there are.
  /// @param seed  of dropout; a pass of its own wants a number of its own
  double forward_backward(std::span<const sample> samples, std::span<const index_t> rates,
                          double scale, std::uint64_t seed) {
    return run(samples, rates, scale, {true, {}, true, seed}, true);
  }
  /// The same sum without gradients; nothing is dropped.
  double loss(std::span<const sample> samples, std::span<const index_t> rates, double scale) {
    return run(samples, rates, scale, {true, {}, false, 0}, false);
  }

  /// The factors of the LoRA that is trained: the encoder's, or in its stage the decoder's.
  std::vector<model::low_rank> lora() const {
    return options_.stage == stage::decoder_lora ? decoder_->lora() : encoder_->lora();
  }

 private:
  using sequences = std::vector<train::sequence>;

  static std::span<const train::lora_options> some_if(bool wanted, const train::lora_options& o) {
    return {&o, wanted ? std::size_t{1} : std::size_t{0}};
  }
  bool trains(const std::string& name) const {
    switch (options_.stage) {
      case stage::restoring:
        return !name.starts_with("decoder.");
      case stage::answering:
        return name.starts_with("decoder.") && name.ends_with(".query+key+value");
      case stage::decoder:
      case stage::decoder_lora:
        break;
    }
    return name.starts_with("decoder.");
  }

  buffer<T, B> table_of(const host_matrix& source) {
    const std::vector<float> values = train::floats_of(source);
    const std::vector<T> converted(values.begin(), values.end());
    return buffer<T, B>(*be_, std::span<const T>(converted));
  }

  /// Rows of tokens, none of them a target.
  static train::sequence untargeted(std::vector<token_t> tokens) {
    std::vector<float> weights(tokens.size(), 0.0F);
    return {std::move(tokens), std::move(weights)};
  }
  index_t n_slots() const { return slots_ != nullptr ? slots_->rows : 0; }
  static std::vector<token_t> placeholders(index_t n) {
    return std::vector<token_t>(static_cast<std::size_t>(n), 0);
  }

  void embed(matrix x, const train::batch<B>& b, const buffer<T, B>& table) {
    ops::gather_rows<B, T>(*be_, x, table.view({n_vocab_, d_}), b.tokens.view({b.n}));
  }

  double run(std::span<const sample> samples, std::span<const index_t> rates, double scale,
             const train::lora_rows<space>& lora, bool backward) {
    if (samples.size() != rates.size()) {
      throw shape_error("gmsa training: " + std::to_string(rates.size()) + " rates for " +
                        std::to_string(samples.size()) + " samples");
    }
    sequences contexts;
    sequences merged;
    sequences answers;
    std::vector<index_t> context_rates;
    std::vector<std::int32_t> soft_rows;  // Of the decoder's batch.
    std::vector<std::int32_t> table_rows;
    std::vector<std::int32_t> slot_rows;  // Of the encoder's batch.
    std::vector<std::int32_t> slot_numbers;
    index_t n_encoded = 0;
    index_t n_answers = 0;
    for (std::size_t i = 0; i < samples.size(); ++i) {
      const sample& s = samples[i];
      const auto n_context = static_cast<index_t>(s.context.size());
      const index_t n_soft = merged_rows(n_context, rates[i]);
      if (n_soft > 0) {
        std::vector<token_t> read = s.context;
        for (index_t j = 0; j < slots_for(n_context, rates[i], n_slots()); ++j) {
          slot_rows.push_back(static_cast<std::int32_t>(n_encoded + n_context + j));
          slot_numbers.push_back(static_cast<std::int32_t>(j));
          read.push_back(0);
        }
        n_encoded += static_cast<index_t>(read.size());
        contexts.push_back(untargeted(std::move(read)));
        merged.push_back(untargeted(placeholders(n_soft)));
        context_rates.push_back(rates[i]);
      }
      train::sequence& a = answers.emplace_back(untargeted(placeholders(n_soft)));
      a.tokens.insert(a.tokens.end(), s.prompt.begin(), s.prompt.end());
      a.weights.resize(a.tokens.size(), 0.0F);
      a.tokens.insert(a.tokens.end(), s.labels.begin(), s.labels.end());
      a.weights.resize(a.tokens.size(), 1.0F);
      for (std::size_t r = 0; r < a.tokens.size(); ++r) {
        const auto row = static_cast<std::int32_t>(n_answers++);
        const bool soft = static_cast<index_t>(r) < n_soft;
        if (soft) soft_rows.push_back(row);
        table_rows.push_back(soft ? -1 : a.tokens[r]);
      }
    }
    constexpr sentence_rule causal{.n_gist = 0};
    const train::batch<B> encoder_rows(*be_, contexts, causal, n_vocab_);
    const train::batch<B> merged_batch(*be_, merged, causal, n_vocab_);
    const train::batch<B> decoder_rows(*be_, answers, causal, n_vocab_);
    const bool compressor_learns = backward && options_.stage == stage::restoring;
    make_room(encoder_rows, merged_batch, decoder_rows, compressor_learns, backward,
              rates.empty() ? 1 : std::ranges::max(rates));
    const typename workspace<B>::scope scope(memory_);

    // Soft tokens.
    const index_t n_soft = merged_batch.n;
    const buffer<std::int32_t, B> soft_at(*be_, std::span<const std::int32_t>(soft_rows));
    const buffer<std::int32_t, B> slots_at(*be_, std::span<const std::int32_t>(slot_rows));
    const buffer<std::int32_t, B> slots_from(*be_, std::span<const std::int32_t>(slot_numbers));
    typename trainable_stack<B, T>::kept_rows encoded;
    typename trainable_stack<B, T>::kept_rows aligned;
    const train::lora_rows<space> plain{true, {}, false, 0};
    if (n_soft > 0) {
      const matrix x = memory_.template take<T>({encoder_rows.n, d_});
      const matrix means = memory_.template take<T>({n_soft, d_});
      embed(x, encoder_rows, encoder_table_);
      if (slots_ != nullptr) {
        ops::gather_rows<B, T>(*be_, means, slots_->matrix(), slots_from.view({n_soft}));
        ops::scatter_rows<B, T>(*be_, x, means, slots_at.view({n_soft}));
      }
      encoded = encoder_->forward(x, encoder_rows, compressor_learns ? lora : plain,
                                  compressor_learns, memory_);
      if (slots_ != nullptr) {
        ops::gather_rows<B, T>(*be_, means, encoded.hidden, slots_at.view({n_soft}));
      }
      for (std::size_t i = 0; slots_ == nullptr && i < context_rates.size(); ++i) {
        const auto& from = encoder_rows.parts[i];
        const auto& to = merged_batch.parts[i];
        group_merge<B, T>(*be_, means.rows(to.begin, to.count),
                          encoded.hidden.rows(from.begin, from.count), context_rates[i], memory_,
                          merging_);
      }
      aligned.hidden = means;
      if (alignment_) {
        aligned = alignment_->forward(means, merged_batch, plain, compressor_learns, memory_);
      }
    }

    // The decoder.
    const matrix x = memory_.template take<T>({decoder_rows.n, d_});
    embed(x, decoder_rows, trained_table_ != nullptr ? trained_table_->value : table_);
    if (n_soft > 0) ops::scatter_rows<B, T>(*be_, x, aligned.hidden, soft_at.view({n_soft}));
    // Encoder and decoder never learn LoRA at once: what drops for one drops for the other.
    auto read = decoder_->forward(x, decoder_rows, lora, backward, memory_);
    const std::vector<float> weights(decoder_rows.targets.size(), static_cast<float>(scale));
    const train::head_targets targets{
        decoder_rows.target_rows, decoder_rows.targets, weights, {}, 0.0};
    matrix d;
    if (backward) {
      d = memory_.template take<T>({decoder_rows.n, d_});
      ops::clear<B, T>(*be_, d);
    }
    const double sum = head_->loss(read.hidden, d, targets, {}, memory_);
    if (!backward) return sum;
    decoder_->backward(d, read, decoder_rows, lora, memory_);
    if (trained_table_ != nullptr) {
      const buffer<std::int32_t, B> rows(*be_, std::span<const std::int32_t>(table_rows));
      ops::scatter_add_rows<B, T>(*be_, trained_table_->gradient_matrix(), d,
                                  rows.view({decoder_rows.n}));
    }
    if (!compressor_learns || n_soft == 0) return sum;

    // Back through alignment and encoder.
    const matrix d_soft = memory_.template take<T>({n_soft, d_});
    ops::gather_rows<B, T>(*be_, d_soft, d, soft_at.view({n_soft}));
    if (alignment_) alignment_->backward(d_soft, aligned, merged_batch, plain, memory_);
    const matrix d_encoded = memory_.template take<T>({encoder_rows.n, d_});
    if (slots_ != nullptr) {
      ops::clear<B, T>(*be_, d_encoded);
      ops::scatter_rows<B, T>(*be_, d_encoded, d_soft, slots_at.view({n_soft}));
      encoder_->backward(d_encoded, encoded, encoder_rows, lora, memory_);
      ops::gather_rows<B, T>(*be_, d_soft, d_encoded, slots_at.view({n_soft}));
      ops::scatter_add_rows<B, T>(*be_, slots_->gradient_matrix(), d_soft,
                                  slots_from.view({n_soft}));
      return sum;
    }
    for (std::size_t i = 0; i < context_rates.size(); ++i) {
      const auto& to = encoder_rows.parts[i];
      const auto& from = merged_batch.parts[i];
      group_merge_backward<B, T>(*be_, d_encoded.rows(to.begin, to.count),
                                 d_soft.rows(from.begin, from.count), context_rates[i], memory_,
                                 merging_);
    }
    encoder_->backward(d_encoded, encoded, encoder_rows, lora, memory_);
    return sum;
  }

  void make_room(const train::batch<B>& encoder_rows, const train::batch<B>& merged,
                 const train::batch<B>& decoder_rows, bool compressor_learns, bool backward,
                 index_t most_rate) {
    const auto rows = [this](index_t n) { return 3 * workspace<B>::template bytes_for<T>(n * d_); };
    std::size_t need = rows(decoder_rows.n) + decoder_->kept_bytes(decoder_rows, backward);
    std::size_t most =
        std::max(decoder_->workspace_size(decoder_rows), head_->workspace_size(false));
    if (merged.n > 0) {
      need += rows(encoder_rows.n) + encoder_->kept_bytes(encoder_rows, compressor_learns) +
              rows(merged.n) + (alignment_ ? alignment_->kept_bytes(merged, compressor_learns) : 0);
      most = std::max({most, encoder_->workspace_size(encoder_rows),
                       alignment_ ? alignment_->workspace_size(merged) : 0,
                       group_merge_workspace_size<B, T>(std::min(most_rate, encoder_rows.n))});
    }
    if (memory_.bytes() >= need + most) return;
    memory_ = {};
    memory_ = workspace<B>(*be_, need + most);
  }

  B* be_;
  training_options options_;
  model::model_config config_;
  index_t d_;
  gmsa::merging merging_;
  index_t n_vocab_ = 0;
  train::parameter_set<B, T> set_;
  buffer<T, B> encoder_table_;
  buffer<T, B> table_;
  train::parameter<B, T>* slots_ = nullptr;
  train::parameter<B, T>* trained_table_ = nullptr;
  std::optional<train::language_head<B, T>> head_;
  std::optional<trainable_stack<B, T>> encoder_;
  std::optional<trainable_stack<B, T>> alignment_;
  std::optional<trainable_stack<B, T>> decoder_;
  workspace<B> memory_;
};

}  // namespace gistkv::gmsa
