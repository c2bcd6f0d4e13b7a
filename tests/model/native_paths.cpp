// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Optional paths of a backend as the model uses them: fused calls, caches of q8, steps that are
// made again. A backend of the tests has them all, by composition of the reference's primitives.

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/cache/snapshot.hpp>
#include <gistkv/model/session.hpp>

#include "support/random_model.hpp"

namespace gistkv {
namespace {

using plain = backends::eigen<float>;

/// Counts what is asked of it. What is queued while it records is kept with its arguments, and made
/// again as it was: where a number of this step was among them, the result is that of another step.
class fused : public plain {
 public:
  using plain::plain;
  static constexpr bool native_attention = true;
  static constexpr bool native_append = true;
  static constexpr bool native_few_rows = true;
  static constexpr bool native_replay = true;
  template <class KV>
  static constexpr bool native_cache = std::same_as<KV, q8>;
  using calls = std::vector<std::function<void()>>;
  using recordings = std::map<replay_key, calls>;

  int n_projected = 0, n_gated = 0, n_appended = 0, n_recorded = 0, n_replayed = 0;
  index_t few = 8;

  void linear(matrix_view<float> o, matrix_view<const float> x, const packed_weight& w) {
    queue([=, this, &w] { plain::linear(o, x, w); });
  }
  void norm(matrix_view<float> o, matrix_view<const float> x, vector_view<const float> weight,
            vector_view<const float> bias, const norm_options& options) {
    queue([=, this] { plain::norm(o, x, weight, bias, options); });
  }
  void rope(tensor_view<float, 3> x, vector_view<const std::int32_t> positions,
            vector_view<const float> frequencies, const rope_options& options) {
    queue([=, this] { plain::rope(x, positions, frequencies, options); });
  }
  void activation(matrix_view<float> o, matrix_view<const float> gate, matrix_view<const float> up,
                  activation_kind kind) {
    queue([=, this] { plain::activation(o, gate, up, kind); });
  }
  void add(matrix_view<float> o, matrix_view<const float> a, matrix_view<const float> b) {
    queue([=, this] { plain::add(o, a, b); });
  }
  template <class U>
  void gather_rows(matrix_view<U> o, matrix_view<const U> x, vector_view<const std::int32_t> rows) {
    for (index_t i = 0; i < o.extent(0); ++i) {
      std::copy_n(x.data() + rows(i) * x.stride(0), o.extent(1), o.data() + i * o.stride(0));
    }
  }

  template <class KV>
  void attention(tensor_view<float, 3> o, tensor_view<const float, 3> q,
                 const kv_spans<KV, host_space>& kv, const span_list& spans, double scale,
                 matrix_view<float> lse) {
    const visible_spans* at = spans.in_backend_memory;
    queue([=, this] { attend(o, q, kv, {at, static_cast<std::size_t>(o.extent(0))}, scale, lse); });
  }
  template <class KV>
  void append_rows(matrix_view<KV> o, matrix_view<const float> x,
                   vector_view<const std::int32_t> rows) {
    queue([=] {
      for (index_t i = 0; i < x.extent(0); ++i) {
        if (rows(i) < 0) continue;
        encode_row(x.data() + i * x.stride(0), x.extent(1), o.data() + rows(i) * o.stride(0));
      }
    });
  }
  template <class S>
  void append(tensor_view<const float, 3> k, tensor_view<const float, 3> v,
              std::span<const S> sequences) {
    ++n_appended;
    for (const S& s : sequences) {
      for (index_t h = 0; h < k.extent(1); ++h) {
        const auto head = [&](const auto& x) {
          return matrix_view<const float>(x.data() + x.offset(s.begin, h, 0),
                                          {s.count, x.extent(2)}, {x.stride(0), 1});
        };
        append_rows(s.anchor_keys.at(h), head(k), s.anchor_rows);
        append_rows(s.anchor_values.at(h), head(v), s.anchor_rows);
        append_rows(s.local_keys.at(h), head(k), s.local_rows);
        append_rows(s.local_values.at(h), head(v), s.local_rows);
      }
    }
  }

  bool few_rows(index_t n, index_t, index_t) const { return n <= few; }
  template <class S>
  void project(const projection_call<fused, float>& p, std::span<const S> sequences) {
    ++n_projected;
    composed::project<fused, float>(*this, p, sequences, temporary(p.x.extents()));
  }
  void gated(const gated_call<fused, float>& g) {
    ++n_gated;
    composed::gated<fused, float>(*this, g, temporary(g.x.extents()), temporary(g.o.extents()));
  }

  bool replays(index_t n, index_t) const { return n <= few; }
  template <class F>
  void replay(recordings& kept, const replay_key& key, F&& f) {
    const auto known = kept.find(key);
    if (known != kept.end()) {
      ++n_replayed;
      for (const auto& call : known->second) call();
      return;
    }
    ++n_recorded;
    recorded_ = &kept[key];
    f();
    recorded_ = nullptr;
  }

 private:
  template <class F>
  void queue(F f) {
    f();
    if (recorded_ != nullptr) recorded_->push_back(f);
  }
  /// Memory that stays, as recorded calls use it again.
  matrix_view<float> temporary(std::array<index_t, 2> extents) {
    auto& memory = temporaries_.emplace_back(static_cast<std::size_t>(extents[0] * extents[1]));
    return {memory.data(), extents};
  }

  /// Rows of caches are those that the spans name: there may be more of them than when this was
  /// queued.
  template <class KV>
  void attend(tensor_view<float, 3> o, tensor_view<const float, 3> q,
              const kv_spans<KV, host_space>& kv, std::span<const visible_spans> spans,
              double scale, matrix_view<float> lse) {
    index_t n_anchors = 0, n_local = 0;
    for (const visible_spans& s : spans) {
      n_anchors = std::max<index_t>(n_anchors, s.anchors);
      n_local = std::max<index_t>(n_local, s.local_end);
    }
    const index_t n_shared = std::min(n_anchors, kv.shared.rows());
    std::vector<std::vector<float>> memory;
    const auto numbers = [&](const tensor_view<const KV, 3>& x, index_t rows) {
      const index_t d = q.extent(2), heads = kv.n_kv_heads();
      auto& all = memory.emplace_back(static_cast<std::size_t>(heads * rows * d));
      for (index_t i = 0; i < heads * rows; ++i) {
        decode_row(x.data() + i / rows * x.stride(0) + i % rows * x.stride(1), d,
                   all.data() + i * d);
      }
      return tensor_view<const float, 3>(all.data(), {heads, rows, d});
    };
    const auto part = [&](const kv_span<KV, host_space>& x, index_t rows) {
      return kv_span<float, host_space>{numbers(x.k, rows), numbers(x.v, rows)};
    };
    const kv_spans<float, host_space> all{
        part(kv.shared, n_shared), part(kv.own, n_anchors - n_shared), part(kv.local, n_local)};
    workspace<plain> scratch(*this,
                             composed::attention_workspace_size<plain, float>(
                                 o.extent(0), o.extent(1), all.n_kv_heads(), n_anchors + n_local));
    composed::attention<plain, float>(*this, o, q, all, {spans, spans.data()}, scale, scratch, lse);
  }

  calls* recorded_ = nullptr;
  std::deque<std::vector<float>> temporaries_;
};
static_assert(Backend<fused>);

const test::random_model_options small{
    .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .d_model = 24, .d_ff = 40};

struct text {
  model::host_model source;
  model::gist_rows gists;
  std::vector<token_t> ids;

  explicit text(const test::random_model_options& options, index_t n_sentences = 40)
      : source(test::random_model(options)), gists(model::untrained_gist_rows(source, 2, 3)) {
    random_generator random(5);
    for (index_t s = 0; s < n_sentences; ++s) {
      for (index_t i = 3 + random.below(6); i > 0; --i) {
        ids.push_back(static_cast<token_t>(random.below(source.config.n_vocab)));
      }
      for (index_t g = 0; g < 2; ++g) {
        ids.push_back(static_cast<token_t>(source.config.n_vocab + g));
      }
    }
  }
};
constexpr cache::cache_options books{.rule = {.n_gist = 2, .recent = 1, .n_sink = 1}};

/// Logits behind each step, where gists are read in one step with the token before them and the
/// first 20 tokens at once.
template <class B, class KV>
std::vector<std::vector<float>> read(B& be, const text& t, int fork_at = -1) {
  const model::transformer<B, float, KV> m(be, t.source, t.gists);
  model::session<B, float, KV> s(m, cache::gist_cache<B, KV>(be, m.cache_shape(), books),
                                 {.past_context = true});
  std::vector<std::vector<float>> all;
  for (std::size_t i = 0; i < t.ids.size();) {
    std::size_t n = i == 0 ? 20 : 1;
    while (i + n < t.ids.size() && m.is_gist(t.ids[i + n])) ++n;
    if (static_cast<int>(all.size()) == fork_at) s = s.fork();
    s.read(std::span(t.ids).subspan(i, n));
    all.emplace_back(s.logits().begin(), s.logits().end());
    i += n;
  }
  return all;
}

TEST_CASE("fused and repeated steps give what single calls give") {
  for (const bool special : {false, true}) {
    CAPTURE(special);
    auto options = small;
    options.biases = special;
    options.head_norms = special;
    const text t(options);
    plain reference(1);
    fused be(1);
    const auto want = read<plain, float>(reference, t, 30);
    const auto found = read<fused, float>(be, t, 30);
    CHECK(found == want);
    const auto n_steps = static_cast<int>(want.size());
    CHECK(be.n_recorded + be.n_replayed == n_steps - 1);  // The first reads too many rows.
    CHECK(be.n_replayed > 2 * n_steps / 3);
    CHECK(be.n_gated == 2 * be.n_recorded);
    // Heads that are normed by themselves are not what the fused call does.
    CHECK(be.n_projected == (special ? 0 : 2 * be.n_recorded));
  }
}

TEST_CASE("a cache of q8 is near one of floats, in a third of its bytes") {
  const text t(small);
  plain reference(1);
  fused be(1);
  const auto want = read<plain, float>(reference, t);
  const auto found = read<fused, q8>(be, t, 30);
  REQUIRE(found.size() == want.size());
  double squares = 0.0, differences = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    for (std::size_t j = 0; j < want[i].size(); ++j) {
      squares += std::pow(want[i][j], 2);
      differences += std::pow(double{found[i][j]} - double{want[i][j]}, 2);
    }
  }
  CHECK(differences > 0.0);
  // A level is 1/127 of the greatest: an error of about 1/400 a number, less behind the sums.
  CHECK(std::sqrt(differences / squares) < 0.01);
  const cache::cache_shape shape{2, 2, 8};
  CHECK(cache::gist_cache<fused, q8>(be, shape).bytes_per_row() == 2 * 2 * 2 * (8 + 4));
  CHECK(cache::gist_cache<plain, float>(reference, shape).bytes_per_row() == 2 * 2 * 2 * 8 * 4);
}

TEST_CASE("rows of q8 keep their scale where a cache is copied, cut and saved") {
  using cache_type = cache::gist_cache<fused, q8>;
  const text t(small, 12);
  fused be(1);
  const model::transformer<fused, float, q8> m(be, t.source, t.gists);
  const auto session_of = [&](cache_type&& c) {
    return model::session<fused, float, q8>(m, std::move(c), {.past_context = true});
  };
  auto first = session_of(cache_type(be, m.cache_shape(), books));
  first.read(t.ids);
  const auto next = [&](cache_type&& c) {
    auto s = session_of(std::move(c));
    s.read(std::vector<token_t>{1});
    return std::vector<float>(s.logits().begin(), s.logits().end());
  };
  const auto want = next(first.cache().copy());
  CHECK(next(first.cache().fork()) == want);
  const auto bytes = cache::save_snapshot(first.cache(), {});
  const auto loaded = next(std::move(cache::load_snapshot<q8>(be, bytes, "test").cache));
  for (std::size_t i = 0; i < want.size(); ++i) {
    CHECK(loaded[i] == doctest::Approx(want[i]).epsilon(1e-5));
  }
  // Sentences 2 to 5 are gone for both.
  auto cut = first.cache().copy();
  cut.erase(2, 5);
  auto cut_too = first.cache().fork();
  cut_too.erase(2, 5);
  const auto without = next(std::move(cut));
  CHECK(next(std::move(cut_too)) == without);
  CHECK(without != want);
}

}  // namespace
}  // namespace gistkv
