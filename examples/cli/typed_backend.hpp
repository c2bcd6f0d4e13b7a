// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <cli/backend.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/conformance/run.hpp>
#include <gistkv/eval/reader.hpp>
#include <gistkv/gmsa/compressor.hpp>
#include <gistkv/model/generate.hpp>
#include <gistkv/model/session.hpp>
#include <gistkv/model/transformer.hpp>

/// backend.hpp on a backend B of the library and caches of KV. A file of backends/ instantiates it
/// once, since that takes most of the time in which the program is built.

namespace gistkv::cli {

template <Backend B, class KV>
class typed_cache final : public sequence_cache {
 public:
  using rows_type = cache::gist_cache<B, KV>;

  typed_cache(std::shared_ptr<B> be, rows_type rows) : be_(std::move(be)), rows_(std::move(rows)) {}

  cache_ptr fork() override { return std::make_unique<typed_cache>(be_, rows_.fork()); }
  const cache::cache_options& options() const override { return rows_.options(); }
  const cache::cache_shape& shape() const override { return rows_.shape(); }
  const cache::row_ledger& ledger() const override { return rows_.ledger(); }
  cache_sizes sizes() const override {
    return {rows_.rows_held(),           rows_.n_shared(),        rows_.bytes_per_row(),
            rows_.bytes_held(),          rows_.bytes_allocated(), rows_.peak_bytes_held(),
            rows_.peak_bytes_allocated()};
  }
  void save(const cache::snapshot_info& info, const model::soft_prompt& soft,
            const cache::byte_sink& sink) const override {
    cache::write_snapshot(rows_, info, soft, sink);
  }

  rows_type& rows() { return rows_; }

 private:
  std::shared_ptr<B> be_;
  rows_type rows_;
};

template <Backend B, class KV>
class typed_sequence final : public sequence {
 public:
  typed_sequence(std::shared_ptr<B> be, const model::transformer<B, element_t<B>, KV>& model,
                 cache_ptr cache, const model::session_options& options)
      : be_(std::move(be)),
        session_(model, std::move(dynamic_cast<typed_cache<B, KV>&>(*cache).rows()), options) {}

  const cache::row_ledger& ledger() const override { return session_.cache().ledger(); }
  void read(std::span<const token_t> tokens, std::vector<index_t>* rows_after,
            const progress_call& progress) override {
    session_.read(tokens, rows_after, progress);
  }
  void read_soft(const model::soft_prompt& soft) override { session_.read_soft(soft); }
  model::generation write(const codec& tokens, text::any_segmenter segmenter,
                          const model::generate_options& options, index_t n_bytes, index_t n_open,
                          model::sampler& sampler, const text_call& on_text) override {
    model::generator generator(session_, tokens, std::move(segmenter), options, n_bytes, n_open);
    return generator.run(sampler, on_text);
  }
  cache_ptr take_cache() override {
    return std::make_unique<typed_cache<B, KV>>(be_, std::move(session_.cache()));
  }

 private:
  std::shared_ptr<B> be_;
  model::session<B, element_t<B>, KV> session_;
};

template <Backend B, class KV>
class typed_model final : public resident_model {
 public:
  typed_model(std::shared_ptr<B> be, const model::host_model& weights,
              const model::gist_rows& gists)
      : be_(std::move(be)), model_(*be_, weights, gists) {}

  void adapt(const model::adapter& a) override { model_.adapt(a); }
  const model::model_config& config() const override { return model_.config(); }
  cache::cache_shape cache_shape() const override { return model_.cache_shape(); }
  token_t first_gist() const override { return model_.first_gist(); }
  cache_ptr make_cache(const cache::cache_options& options) const override {
    using rows_type = typename typed_cache<B, KV>::rows_type;
    return std::make_unique<typed_cache<B, KV>>(be_,
                                                rows_type(*be_, model_.cache_shape(), options));
  }
  std::unique_ptr<sequence> go_on(cache_ptr cache,
                                  const model::session_options& options) const override {
    return std::make_unique<typed_sequence<B, KV>>(be_, model_, std::move(cache), options);
  }
  std::vector<eval::token_score> read(sequence_cache& cache, const eval::policy& policy,
                                      const eval::reading& what,
                                      const model::session_options& options,
                                      const sequence::progress_call& progress) const override {
    auto& rows = dynamic_cast<typed_cache<B, KV>&>(cache).rows();
    std::vector<eval::token_score> scores;
    eval::reader<B, element_t<B>, KV>(model_, rows, policy, options).read(what, scores, progress);
    return scores;
  }

 private:
  std::shared_ptr<B> be_;
  model::transformer<B, element_t<B>, KV> model_;
};

template <Backend B, class KV>
class typed_compressor final : public resident_compressor {
 public:
  typed_compressor(std::shared_ptr<B> be, const gmsa::host_compressor& weights)
      : be_(std::move(be)), compressor_(*be_, weights) {}

  model::soft_prompt compress(std::span<const token_t> tokens, index_t rate,
                              const gmsa::compress_options& options,
                              const progress_call& progress) const override {
    return std::move(compressor_.compress({&tokens, 1}, {&rate, 1}, options, progress).front());
  }

 private:
  std::shared_ptr<B> be_;
  gmsa::compressor<B, element_t<B>, KV> compressor_;
};

template <Backend B, class KV>
class typed_backend final : public backend {
 public:
  typed_backend(std::shared_ptr<B> be, std::string instruction_set)
      : be_(std::move(be)),
        info_{std::string(B::name),
              std::string(conformance::dtype_name<KV>()),
              std::string(conformance::dtype_name<element_t<B>>()),
              std::string(conformance::dtype_name<factor_t<B, element_t<B>>>()),
              std::move(instruction_set),
              be_->n_threads()} {}

  const backend_info& info() const override { return info_; }
  std::unique_ptr<resident_model> load(const model::host_model& weights,
                                       const model::gist_rows& gists) override {
    return std::make_unique<typed_model<B, KV>>(be_, weights, gists);
  }
  std::unique_ptr<resident_compressor> load_compressor(
      const gmsa::host_compressor& weights) override {
    return std::make_unique<typed_compressor<B, KV>>(be_, weights);
  }
  loaded_cache load_cache(cache::snapshot_contents contents,
                          const std::shared_ptr<const void>& owner) override {
    auto loaded = cache::load_snapshot<KV>(*be_, std::move(contents), owner);
    return {std::make_unique<typed_cache<B, KV>>(be_, std::move(loaded.cache)),
            std::move(loaded.info), std::move(loaded.soft)};
  }

 private:
  std::shared_ptr<B> be_;
  backend_info info_;
};

/// The conformance suite on a backend. Types that it does not compute on are left out: others of
/// its template may.
template <Backend B>
conformance::report run_suite(B& be, bool quick) {
  conformance::report found;
  conformance::run(be, found, {.model_shapes = !quick});
  conformance::report all;
  for (const conformance::result& r : found.results()) {
    if (!r.skipped()) all.add(r);
  }
  return all;
}

template <class B, class T, class KV>
inline constexpr bool has_cache = std::is_same_v<T, KV> || B::template native_cache<KV>;

/// The row of activations T for the backends Bs, which are one class template.
template <class T, class... Bs>
constexpr type_support support_of() {
  type_support row{conformance::dtype_name<T>()};
  const auto add = [&row]<class B>(std::type_identity<B>) {
    if constexpr (Computes<B, T>) {
      row.of.fill(support::native);
      row.of[spans_attention] = B::native_attention ? support::native : support::composed;
      row.of[masked_attention] = support::composed;
      const std::array caches = {has_cache<B, T, double>, has_cache<B, T, float>,
                                 has_cache<B, T, bf16>, has_cache<B, T, f16>, has_cache<B, T, q8>};
      for (std::size_t i = 0; i < caches.size(); ++i) row.caches[i] = row.caches[i] || caches[i];
    }
  };
  (add(std::type_identity<Bs>()), ...);
  return row;
}

template <class... Bs>
inline constexpr std::array<type_support, element_types.size()> support_table = {
    support_of<double, Bs...>(), support_of<float, Bs...>(), support_of<bf16, Bs...>(),
    support_of<f16, Bs...>()};

}  // namespace gistkv::cli
