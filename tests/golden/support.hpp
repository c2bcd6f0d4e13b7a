// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/core/random.hpp>
#include <gistkv/io/load_model.hpp>
#include <gistkv/model/transformer.hpp>

#include "support/data.hpp"
#include "support/golden_arrays.hpp"

namespace gistkv::test {

using reference = backends::eigen<float>;
using oracle = backends::eigen<double>;

/// One backend and one mapped model file for all golden cases.
template <class B = reference>
B& backend() {
  static B be;
  return be;
}
inline const model::host_model& smollm2() {
  static const model::host_model m = io::load_model(model_path()).weights;
  return m;
}

/// Gist rows of the goldens: row i, column j from the splitmix64 generator at 0x5eed + 576 i + j.
inline model::gist_rows golden_gists(index_t n_gist, index_t d_model) {
  model::gist_rows gists{n_gist, {}, {}};
  for (index_t at = 0; at < n_gist * d_model; ++at) {
    const float u =
        static_cast<float>(splitmix64(0x5eed + static_cast<std::uint64_t>(at)) >> 40) / 16777216.0F;
    gists.input.push_back((0.02F * (u - 0.5F)) * 3.4641016F);
  }
  return gists;
}

/// The model with N_g gists; only the last one asked for is kept.
template <class B = reference>
const model::transformer<B>& gisted_smollm2(index_t n_gist) {
  static std::unique_ptr<model::transformer<B>> kept;
  if (kept == nullptr || kept->n_gist() != n_gist) {
    kept.reset();
    kept = std::make_unique<model::transformer<B>>(backend<B>(), smollm2(),
                                                   golden_gists(n_gist, smollm2().config.d_model));
  }
  return *kept;
}

/// Hidden states of a whole sequence read in one pass.
template <class B, class T, class KV, class Observer>
buffer<T, B> read_all(const model::transformer<B, T, KV>& m, cache::gist_cache<B, KV>& cache,
                      std::span<const token_t> ids, Observer&& observe) {
  const model::sequence_step<B, KV> step{&cache, ids, {}};
  const auto n = static_cast<index_t>(ids.size());
  workspace<B> scratch(m.backend(), m.workspace_size({&step, 1}));
  buffer<T, B> hidden(m.backend(), n * m.config().d_model);
  m.forward({&step, 1}, hidden.view({n, m.config().d_model}), scratch, observe);
  return hidden;
}

/// A tensor of any backend, to be indexed on the host.
template <class T, std::size_t Rank>
class host_copy {
 public:
  template <class B>
  host_copy(B& be, const tensor_view<const T, Rank, space_of<B>>& from) : extents_(from.extents()) {
    values_.resize(static_cast<std::size_t>(from.size()));
    view_ = {values_.data(), extents_};
    if (!from.empty()) copy(be, from.data(), from.strides(), values_.data(), 0);
  }
  host_copy(const host_copy&) = delete;
  host_copy& operator=(const host_copy&) = delete;

  template <class... I>
  T operator()(I... i) const {
    return view_(i...);
  }

 private:
  /// Elements of the last dimension lie side by side.
  template <class B>
  T* copy(B& be, const T* from, const std::array<index_t, Rank>& strides, T* to, std::size_t d) {
    if (d + 1 == Rank) {
      be.download(to, from, static_cast<std::size_t>(extents_[d]) * sizeof(T));
      return to + extents_[d];
    }
    for (index_t i = 0; i < extents_[d]; ++i) {
      to = copy(be, from + i * strides[d], strides, to, d + 1);
    }
    return to;
  }

  std::array<index_t, Rank> extents_;
  std::vector<T> values_;
  tensor_view<const T, Rank> view_;
};

/// Logits of hidden states [begin, begin + n).
template <class B, class T, class KV>
std::vector<T> logits_of(const model::transformer<B, T, KV>& m, const buffer<T, B>& hidden,
                         index_t begin, index_t n) {
  const index_t d = m.config().d_model;
  buffer<T, B> out(m.backend(), n * m.n_vocab());
  m.logits(out.view({n, m.n_vocab()}), hidden.view({hidden.size() / d, d}).rows(begin, n));
  return out.to_host();
}

}  // namespace gistkv::test
