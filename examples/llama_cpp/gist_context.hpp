// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <llama.h>

#include <gistkv/cache/row_ledger.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/model/gist_rows.hpp>
#include <gistkv/model/soft_prompt.hpp>

/// A gist cache inside llama.cpp, which is neither patched nor knows of it: the ledger says which
/// rows there are and which may go, the public C API does the rest. docs/llama_cpp.md tells what
/// that API demands and why the calls below are cut as they are.
namespace llama_gist {

using gistkv::index_t;
using gistkv::token_t;

struct deleter {
  void operator()(llama_model* m) const { llama_model_free(m); }
  void operator()(llama_context* c) const { llama_free(c); }
};
using model_ptr = std::unique_ptr<llama_model, deleter>;

/// Loads a model. @throws backend_error.
inline model_ptr load_model(const std::string& path) {
  model_ptr m(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
  if (!m) throw gistkv::backend_error("llama.cpp: cannot load " + path);
  return m;
}

/// @throws argument_error for a model whose memory is no plain KV cache of all positions, or whose
/// positions are not plain numbers.
inline void check_model(const llama_model& m) {
  const auto refuse = [](const char* why) {
    throw gistkv::argument_error(std::string("llama.cpp: ") + why);
  };
  // llama_memory_seq_rm says true for these and removes nothing of their state.
  if (llama_model_is_recurrent(&m)) refuse("the model is recurrent, it has no rows to remove");
  if (llama_model_is_hybrid(&m)) refuse("the model is hybrid, part of it has no rows to remove");
  if (llama_model_has_encoder(&m)) refuse("the model has an encoder");
  if (llama_model_is_diffusion(&m)) refuse("the model is no causal one");
  if (llama_model_n_swa(&m) > 0) refuse("the model has sliding windows, gists would leave them");
  const auto rope = llama_model_rope_type(&m);
  if (rope != LLAMA_ROPE_TYPE_NORM && rope != LLAMA_ROPE_TYPE_NEOX) {
    refuse("the model's positions are not plain rotary ones");
  }
}

struct context_options {
  index_t n_cells = 0;  ///< Rows that fit (llama.cpp's n_ctx: cells, not positions).
  ggml_type kv = GGML_TYPE_F16;
  bool flash = true;  ///< Set either way: `auto` may differ from machine to machine.
  int n_threads = 1;
  index_t n_batch = 512;  ///< Rows of a call at most.
};

/// One sequence in a llama.cpp context. A model::generator continues it as it does a session.
class gist_context {
 public:
  /// @param gists  rows of the gist tokens; the model's file is not touched
  /// @throws argument_error as check_model and cache::validate, or for a window; shape_error for
  /// gists that do not fit; backend_error.
  gist_context(llama_model& model, gistkv::cache::cache_rule rule, gistkv::model::gist_rows gists,
               const context_options& options)
      : ledger_(rule),
        gists_(std::move(gists)),
        n_vocab_(llama_vocab_n_tokens(llama_model_get_vocab(&model))),
        d_model_(llama_model_n_embd_inp(&model)),
        n_batch_(options.n_batch) {
    check_model(model);
    if (rule.window > 0) throw gistkv::argument_error("llama.cpp: a window is not driven here");
    if (rule.n_gist != gists_.n_gist ||
        gists_.input.size() != static_cast<std::size_t>(gists_.n_gist * d_model_)) {
      throw gistkv::shape_error("llama.cpp: " + std::to_string(gists_.input.size()) +
                                " elements of gist rows, expected " + std::to_string(rule.n_gist) +
                                " rows of " + std::to_string(d_model_));
    }
    llama_context_params p = llama_context_default_params();
    p.n_ctx = static_cast<std::uint32_t>(options.n_cells);
    p.n_batch = p.n_ubatch = static_cast<std::uint32_t>(n_batch_);
    p.n_outputs_max = 1;
    p.n_threads = p.n_threads_batch = options.n_threads;
    p.type_k = p.type_v = options.kv;
    p.flash_attn_type =
        options.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_.reset(llama_init_from_model(&model, p));
    if (!context_) {
      throw gistkv::backend_error("llama.cpp: no context of " + std::to_string(options.n_cells) +
                                  " cells, KV " + ggml_type_name(options.kv));
    }
  }

  /// LoRA, made for this model, on all rows and on those of gists; either may be null.
  /// @throws backend_error.
  void adapt(llama_adapter_lora* on_all_rows, llama_adapter_lora* on_gist_rows) {
    lora_ = on_all_rows;
    gist_lora_ = on_gist_rows;
    set_lora(false);
  }

  /// Reads tokens; the logits behind the last are there after it. Appends to `rows_after`, if
  /// given, the rows held behind each token.
  /// @throws argument_error for no tokens, or a token that neither model nor gists have;
  /// backend_error when llama.cpp refuses: what was read before the call that failed stays read.
  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after = nullptr) {
    check_tokens(tokens);
    for (std::size_t begin = 0; begin < tokens.size();) {
      // A call holds tokens or vectors, never both: of a batch with both, llama.cpp reads the
      // tokens and says nothing. It ends where a sentence does, whose rows go before the next.
      const bool gist = is_gist(tokens[begin]);
      const auto mark = ledger_.mark();
      std::size_t end = begin;
      for (bool closed = false; !closed && end < tokens.size() && is_gist(tokens[end]) == gist &&
                                end - begin < static_cast<std::size_t>(n_batch_);
           ++end) {
        closed = ledger_.append(gist).closes;
        if (rows_after != nullptr) rows_after->push_back(ledger_.rows_held());
      }
      const auto part = tokens.subspan(begin, end - begin);
      const bool last = end == tokens.size();
      if (gist) {
        vectors_.clear();
        for (const token_t t : part) {
          const auto row = gists_.input.begin() + (t - n_vocab_) * d_model_;
          vectors_.insert(vectors_.end(), row, row + d_model_);
        }
        decode({}, vectors_, part.size(), mark, last);
      } else {
        decode(part, {}, part.size(), mark, last);
      }
      begin = end;
    }
  }

  /// Reads vectors in place of tokens. @throws as read; shape_error for another width.
  void read_soft(const gistkv::model::soft_prompt& soft) {
    if (soft.d_model != d_model_) {
      throw gistkv::shape_error("llama.cpp: soft tokens of width " + std::to_string(soft.d_model) +
                                ", the model has " + std::to_string(d_model_));
    }
    for (index_t begin = 0; begin < soft.size(); begin += n_batch_) {
      const index_t n = std::min(n_batch_, soft.size() - begin);
      const auto mark = ledger_.mark();
      for (index_t i = 0; i < n; ++i) ledger_.append(false);
      decode({}, soft.part(begin, n), static_cast<std::size_t>(n), mark, begin + n == soft.size());
    }
  }

  /// Logits of the model's own tokens behind the last row. @throws argument_error before any.
  std::span<const float> logits() const {
    const float* row = llama_get_logits_ith(context_.get(), -1);
    if (row == nullptr) throw gistkv::argument_error("llama.cpp: no logits before a row is read");
    return {row, static_cast<std::size_t>(n_vocab_)};
  }

  index_t n_gist() const { return ledger_.rule().n_gist; }
  token_t first_gist() const { return n_vocab_; }
  const gistkv::cache::row_ledger& ledger() const { return ledger_; }
  /// What llama.cpp would save of the sequence: its keys and values, and about 20 bytes a row.
  std::size_t state_bytes() const { return llama_state_seq_get_size(context_.get(), 0); }
  llama_context* get() const { return context_.get(); }

 private:
  bool is_gist(token_t t) const { return t >= n_vocab_; }

  void check_tokens(std::span<const token_t> tokens) const {
    if (tokens.empty()) throw gistkv::argument_error("llama.cpp: no tokens to read");
    for (const token_t t : tokens) {
      if (t >= 0 && t - n_vocab_ < gists_.n_gist) continue;
      throw gistkv::argument_error("llama.cpp: token " + std::to_string(t) + ", the model has " +
                                   std::to_string(n_vocab_) + " and " +
                                   std::to_string(gists_.n_gist) + " gists");
    }
  }

  /// One call of llama_decode for rows that the ledger knows already, and the removal behind it.
  void decode(std::span<const token_t> tokens, std::span<const float> vectors, std::size_t n,
              const gistkv::cache::row_ledger::checkpoint& mark, bool want_logits) {
    llama_memory_t memory = llama_get_memory(context_.get());
    try {
      // The API takes consecutive positions from here on and no others; gists are always the
      // newest rows when a sentence closes, so removing its tokens never moves this back.
      const llama_pos next = llama_memory_seq_pos_max(memory, 0) + 1;
      if (next != mark.next_position) {
        throw gistkv::backend_error("llama.cpp: position " + std::to_string(next) +
                                    " is next, the ledger has " +
                                    std::to_string(mark.next_position));
      }
      if (gist_lora_ != nullptr) set_lora(tokens.empty());
      positions_.resize(n);
      outputs_.assign(n, 0);
      for (std::size_t i = 0; i < n; ++i) positions_[i] = next + static_cast<llama_pos>(i);
      outputs_.back() = want_logits ? 1 : 0;
      llama_batch batch = {};
      batch.n_tokens = static_cast<std::int32_t>(n);
      // The API reads these and lacks the const.
      batch.token = tokens.empty() ? nullptr : const_cast<llama_token*>(tokens.data());
      batch.embd = tokens.empty() ? const_cast<float*>(vectors.data()) : nullptr;
      batch.pos = positions_.data();
      batch.logits = outputs_.data();
      if (const int code = llama_decode(context_.get(), batch); code != 0) {
        throw gistkv::backend_error("llama_decode: " + std::to_string(code) + " for " +
                                    std::to_string(n) + " rows from position " +
                                    std::to_string(next) +
                                    (code == 1 ? ", there are no free cells for them" : ""));
      }
    } catch (...) {
      ledger_.go_back(mark);
      throw;
    }
    drop_dead_rows(memory);
  }

  /// Removes the rows that no later one can see. Gists among them stay: they are anchors.
  void drop_dead_rows(llama_memory_t memory) {
    const std::int32_t end = ledger_.live_begin();
    while (n_dropped_ < end) {
      const auto& first = ledger_.local(n_dropped_++);
      if (first.kind == gistkv::cache::row_kind::gist) continue;
      llama_pos last = first.position + 1;
      while (n_dropped_ < end && ledger_.local(n_dropped_).kind != gistkv::cache::row_kind::gist &&
             ledger_.local(n_dropped_).position == last) {
        ++n_dropped_;
        ++last;
      }
      if (!llama_memory_seq_rm(memory, 0, first.position, last)) {
        throw gistkv::backend_error("llama_memory_seq_rm: false for positions " +
                                    std::to_string(first.position) + " to " +
                                    std::to_string(last - 1));
      }
    }
    ledger_.forget_dead_rows();
  }

  /// For rows of gists, or for all others.
  void set_lora(bool gists) {
    llama_adapter_lora* list[] = {nullptr, nullptr};
    float scales[] = {1.0F, 1.0F};
    std::size_t n = 0;
    if (lora_ != nullptr) list[n++] = lora_;
    if (gists && gist_lora_ != nullptr) list[n++] = gist_lora_;
    if (llama_set_adapters_lora(context_.get(), list, n, scales) != 0) {
      throw gistkv::backend_error("llama_set_adapters_lora failed");
    }
  }

  std::unique_ptr<llama_context, deleter> context_;
  gistkv::cache::row_ledger ledger_;
  gistkv::model::gist_rows gists_;
  token_t n_vocab_;
  index_t d_model_;
  index_t n_batch_;
  std::int32_t n_dropped_ = 0;  ///< Running number of the first local row that is still there.
  llama_adapter_lora* lora_ = nullptr;
  llama_adapter_lora* gist_lora_ = nullptr;
  std::vector<float> vectors_;
  std::vector<llama_pos> positions_;
  std::vector<std::int8_t> outputs_;
};

}  // namespace llama_gist
