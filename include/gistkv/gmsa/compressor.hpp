// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gistkv/core/backend.hpp>
#include <gistkv/core/buffer.hpp>
#include <gistkv/core/dequantize.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/workspace.hpp>
#include <gistkv/gmsa/group_merge.hpp>
#include <gistkv/gmsa/stack_pass.hpp>
#include <gistkv/gmsa/weights.hpp>
#include <gistkv/model/block.hpp>
#include <gistkv/model/soft_prompt.hpp>
#include <gistkv/model/transformer.hpp>

namespace gistkv::gmsa {

struct compress_options {
  index_t chunk = 512;  ///< Rows of a context in one pass at most, rounded up to whole groups; as
                        ///< model::session_options::chunk.
  bool past_context = false;  ///< Go on behind the positions that the encoder was trained for.
};

/// Makes soft tokens of contexts, as GMSA does (arXiv 2505.12215): the first layers of a model with
/// its final norm read the context, the mean of each group of `rate` rows is taken, and a causal
/// stack of its own (or one linear map) brings the means to what the decoder reads in front of a
/// prompt. Neither special tokens nor a chat template are added.
template <class B, class T = element_t<B>, class KV = T>
requires Computes<B, T>
class compressor {
 public:
  using context = std::span<const token_t>;

  /// Packs the weights. The table stays where it is: rows are looked up on the host.
  /// @throws shape_error for parts that do not fit each other, and what transformer throws.
  compressor(B& be, const host_compressor& source)
      : be_(&be),
        table_(source.encoder.token_embedding),
        slots_(source.slots),
        storage_(source.encoder.storage),
        merging_(source.merging) {
    model::host_model layers = source.encoder;
    layers.token_embedding = {};
    layers.config.tied_head = false;
    layers.head = {};
    encoder_.emplace(be, layers);
    const index_t d = d_model();
    if (table_.cols != d) {
      throw shape_error("gmsa: the encoder's table has " + std::to_string(table_.cols) +
                        " columns, expected " + std::to_string(d));
    }
    if (!slots_.empty()) expect_width("slots", slots_.cols);
    if (!source.alignment.blocks.empty()) {
      alignment_.emplace(be, source.alignment);
      expect_width("alignment layers", alignment_->config().d_model);
    } else if (!source.linear.weight.empty()) {
      expect_width("linear alignment", source.linear.weight.rows);
      expect_width("linear alignment", source.linear.weight.cols);
      linear_.emplace(be, source.linear);
    }
  }

  B& backend() const { return *be_; }
  index_t d_model() const { return encoder_->config().d_model; }
  const model::model_config& encoder_config() const { return encoder_->config(); }
  index_t n_encoder_layers() const { return encoder_config().n_layers; }
  /// 0: the alignment is linear, or there is none.
  index_t n_alignment_layers() const { return alignment_ ? alignment_->config().n_layers : 0; }
  /// Soft tokens that a context can have at most; 0: as many as it has groups.
  index_t n_slots() const { return slots_.rows; }

  /// Soft tokens of several contexts, read together; context i is merged in groups of rates[i]. A
  /// batch of n gives what n calls give, as with transformer::forward. A context without tokens
  /// gives no soft tokens.
  /// @param[in] progress  called as progress(tokens read of all contexts)
  /// @throws argument_error for a rate or a chunk below 1, a token outside the table, a context
  /// longer than the encoder was trained for, or one that wants more slots than there are;
  /// shape_error for other numbers of rates than contexts.
  template <class Progress>
  std::vector<model::soft_prompt> compress(std::span<const context> contexts,
                                           std::span<const index_t> rates,
                                           const compress_options& options,
                                           Progress&& progress) const {
    return align(merge(contexts, rates, options, progress), options);
  }
  std::vector<model::soft_prompt> compress(std::span<const context> contexts,
                                           std::span<const index_t> rates,
                                           const compress_options& options = {}) const {
    return compress(contexts, rates, options, [](index_t) {});
  }
  model::soft_prompt compress(context tokens, index_t rate,
                              const compress_options& options = {}) const {
    return std::move(compress({&tokens, 1}, {&rate, 1}, options).front());
  }

  /// The first half: encoder rows, merged. With rate 1 they are the encoder's rows. Where there are
  /// slots, the encoder's rows of these.
  template <class Progress>
  std::vector<model::soft_prompt> merge(std::span<const context> contexts,
                                        std::span<const index_t> rates,
                                        const compress_options& options,
                                        Progress&& progress) const {
    check(contexts, rates, options.past_context);
    std::vector<model::soft_prompt> merged(contexts.size());
    for (auto& m : merged) m.d_model = d_model();
    std::vector<index_t> lengths;
    std::vector<index_t> pieces;
    for (std::size_t i = 0; i < contexts.size(); ++i) {
      const auto n = static_cast<index_t>(contexts[i].size());
      lengths.push_back(n + slots_for(n, rates[i], n_slots()));
      // No group may lie in two pieces.
      pieces.push_back(n_slots() > 0 ? options.chunk
                                     : merged_rows(options.chunk, rates[i]) * rates[i]);
    }
    std::vector<std::vector<float>> embeddings(contexts.size());
    std::vector<index_t> read(contexts.size(), 0);  // Tokens of each.
    index_t total = 0;
    stack_pass(
        *encoder_, lengths, pieces,
        [&](std::size_t i, index_t begin, index_t count) {
          look_up(contexts[i], begin, count, embeddings[i]);
          return std::span<const float>(embeddings[i]);
        },
        [&](std::size_t i, matrix_view<const T, space_of<B>> hidden) {
          const index_t n_tokens =
              std::min(hidden.extent(0), static_cast<index_t>(contexts[i].size()) - read[i]);
          read[i] += n_tokens;
          if (n_slots() > 0) {
            append(merged[i], hidden.rows(n_tokens, hidden.extent(0) - n_tokens));
          } else {
            const index_t n_groups = merged_rows(n_tokens, rates[i]);
            const index_t longest = std::min(rates[i], n_tokens);
            workspace<B> scratch(*be_, group_merge_workspace_size<B, T>(longest));
            buffer<T, B> means(*be_, n_groups * d_model());
            group_merge<B, T>(*be_, means.view({n_groups, d_model()}), hidden, rates[i], scratch,
                              merging_);
            append(merged[i], means.to_host());
          }
          progress(total += n_tokens);
        });
    return merged;
  }

  /// The second half: soft tokens of merged rows. @throws argument_error for a chunk below 1.
  std::vector<model::soft_prompt> align(std::span<const model::soft_prompt> merged,
                                        const compress_options& options = {}) const {
    if (!alignment_ && !linear_) return {merged.begin(), merged.end()};
    std::vector<model::soft_prompt> soft(merged.size());
    for (auto& s : soft) s.d_model = d_model();
    if (linear_) {
      for (std::size_t i = 0; i < merged.size(); ++i) align_linearly(merged[i], soft[i]);
      return soft;
    }
    std::vector<index_t> lengths;
    for (const auto& m : merged) lengths.push_back(m.size());
    const std::vector<index_t> pieces(merged.size(), options.chunk);
    stack_pass(
        *alignment_, lengths, pieces,
        [&](std::size_t i, index_t begin, index_t count) { return merged[i].part(begin, count); },
        [&](std::size_t i, matrix_view<const T, space_of<B>> hidden) { append(soft[i], hidden); });
    return soft;
  }

 private:
  void expect_width(const char* part, index_t found) const {
    if (found == d_model()) return;
    throw shape_error(std::string("gmsa: the ") + part + " have width " + std::to_string(found) +
                      ", the encoder " + std::to_string(d_model()));
  }

  void check(std::span<const context> contexts, std::span<const index_t> rates,
             bool past_context) const {
    if (rates.size() != contexts.size()) {
      throw shape_error("gmsa: " + std::to_string(rates.size()) + " rates for " +
                        std::to_string(contexts.size()) + " contexts");
    }
    for (const index_t rate : rates) check_merge_size(rate);
    const index_t most = encoder_config().n_context;
    for (std::size_t i = 0; i < contexts.size(); ++i) {
      const auto n = static_cast<index_t>(contexts[i].size());
      const index_t behind = slots_for(n, rates[i], n_slots());
      if (!past_context && most > 0 && n + behind > most) {
        throw argument_error("gmsa: a context of " + std::to_string(n) + " tokens" +
                             (behind > 0 ? " and " + std::to_string(behind) + " slots" : "") +
                             ", the encoder was trained for " + std::to_string(most));
      }
      for (const token_t t : contexts[i]) {
        if (t >= 0 && t < table_.rows) continue;
        throw argument_error("gmsa: token " + std::to_string(t) +
                             " is outside the encoder's table of " + std::to_string(table_.rows));
      }
    }
  }

  /// Rows [begin, begin + count) of what the encoder reads: the tokens, then slots.
  void look_up(context tokens, index_t begin, index_t count, std::vector<float>& rows) const {
    rows.resize(static_cast<std::size_t>(count * d_model()));
    const auto n = static_cast<index_t>(tokens.size());
    float* row = rows.data();
    for (index_t i = begin; i < begin + count; ++i) {
      if (i < n) {
        dequantize_row(table_, tokens[static_cast<std::size_t>(i)], row);
      } else {
        dequantize_row(slots_, i - n, row);
      }
      row += d_model();
    }
  }

  static void append(model::soft_prompt& to, const std::vector<T>& rows) {
    for (const T x : rows) to.rows.push_back(static_cast<float>(x));
  }
  void append(model::soft_prompt& to, matrix_view<const T, space_of<B>> rows) const {
    std::vector<T> host(static_cast<std::size_t>(rows.size()));
    be_->download(host.data(), rows.data(), host.size() * sizeof(T));
    append(to, host);
  }

  void align_linearly(const model::soft_prompt& merged, model::soft_prompt& soft) const {
    if (merged.size() == 0) return;
    const std::vector<T> rows(merged.rows.begin(), merged.rows.end());
    const buffer<T, B> x(*be_, std::span<const T>(rows));
    buffer<T, B> o(*be_, x.size());
    const index_t n = merged.size();
    (*linear_)(*be_, o.view({n, d_model()}), x.view({n, d_model()}));
    append(soft, o.to_host());
  }

  B* be_;
  host_matrix table_;
  host_matrix slots_;
  std::vector<std::shared_ptr<const void>> storage_;  ///< Of both.
  gmsa::merging merging_;
  std::optional<model::transformer<B, T, KV>> encoder_;
  std::optional<model::transformer<B, T, KV>> alignment_;
  std::optional<model::linear_map<B, T>> linear_;
};

}  // namespace gistkv::gmsa
