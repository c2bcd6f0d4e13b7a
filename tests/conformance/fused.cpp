// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// A backend that declares every call of several passes the suite if they give what their
// compositions give, and fails it, in cases of that call alone, if one does not.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gistkv/backends/eigen.hpp>
#include <gistkv/conformance/run.hpp>
#include <gistkv/core/workspace.hpp>

namespace gistkv::conformance {
namespace {

enum class wrong {
  nothing,
  linears_leaves_the_last_map,
  linears_rounds_rows_that_are_not_coarse,
  append_reads_the_first_sequence_twice,
  append_writes_dropped_rows,
  attention_batch_shares_the_first_queries,
  attention_batch_leaves_lse,
  project_norms_twice,
  project_leaves_the_keys_unturned,
  project_appends_nothing,
  gated_ignores_biases,
  gated_is_always_silu,
};

struct entry {
  wrong kind;
  std::string_view op;
};
constexpr std::array<entry, 11> table{{
    {wrong::linears_leaves_the_last_map, "linears"},
    {wrong::linears_rounds_rows_that_are_not_coarse, "linears"},
    {wrong::append_reads_the_first_sequence_twice, "append"},
    {wrong::append_writes_dropped_rows, "append"},
    {wrong::attention_batch_shares_the_first_queries, "attention_batch"},
    {wrong::attention_batch_leaves_lse, "attention_batch"},
    {wrong::project_norms_twice, "project"},
    {wrong::project_leaves_the_keys_unturned, "project"},
    {wrong::project_appends_nothing, "project"},
    {wrong::gated_ignores_biases, "gated"},
    {wrong::gated_is_always_silu, "gated"},
}};

/// The reference with every call of several, by composition of its primitives, and a fault.
class joined : public backends::eigen<float> {
 public:
  using plain = backends::eigen<float>;
  using matrix = matrix_view<float>;
  static constexpr bool native_linears = true;
  static constexpr bool native_append = true;
  static constexpr bool native_attention_batch = true;
  static constexpr bool native_few_rows = true;
  template <class>
  static constexpr bool native_cache = false;

  explicit joined(wrong kind) : plain(1), kind_(kind) {}

  void linears(std::span<const linear_output<joined, float>> outputs, matrix_view<const float> x,
               row_range coarse) {
    const matrix rounded = temporary({x.extent(0), x.extent(1)});
    for (index_t i = 0; i < x.extent(0); ++i) {
      const bool any = has(wrong::linears_rounds_rows_that_are_not_coarse) && coarse.size() > 0;
      const bool rounds = any || (coarse.begin <= i && i < coarse.end);
      for (index_t j = 0; j < x.extent(1); ++j) {
        // Sixteenths are coarser than any level of a row of normal numbers.
        rounded(i, j) = rounds && any ? std::round(16.0F * x(i, j)) / 16.0F : x(i, j);
      }
    }
    const std::size_t left = has(wrong::linears_leaves_the_last_map) ? 1 : 0;
    for (const auto& to : outputs.first(outputs.size() - left)) {
      plain::linear(to.o, rounded, *to.w);
    }
  }

  template <class S>
  void append(tensor_view<const float, 3> k, tensor_view<const float, 3> v,
              std::span<const S> sequences) {
    std::vector<S> all(sequences.begin(), sequences.end());
    std::vector<std::int32_t> rows;
    for (S& s : all) {
      if (has(wrong::append_reads_the_first_sequence_twice)) s.begin = 0;
      if (!has(wrong::append_writes_dropped_rows) || rows.size() > 0) continue;
      for (index_t i = 0; i < s.count; ++i) {
        rows.push_back(s.local_rows(i) < 0 ? -1 - s.local_rows(i) : s.local_rows(i));
      }
      s.local_rows = {rows.data(), {s.count}};
    }
    compose_append(k, v, std::span<const S>(all));
  }

  void attention_batch(std::span<const attention_call<float, host_space>> calls, double scale) {
    for (const auto& c : calls) {
      auto q = c.q;
      if (has(wrong::attention_batch_shares_the_first_queries) &&
          calls.front().q.extents() == q.extents()) {
        q = calls.front().q;
      }
      const bool lse = !has(wrong::attention_batch_leaves_lse);
      const index_t n_keys = c.kv.shared.rows() + c.kv.own.rows() + c.kv.local.rows();
      workspace<plain> scratch(*this, composed::attention_workspace_size<plain, float>(
                                          q.extent(0), q.extent(1), c.kv.n_kv_heads(), n_keys));
      composed::attention<plain, float>(*this, c.o, q, c.kv, c.spans, scale, scratch,
                                        lse ? c.lse : matrix{});
    }
  }

  bool few_rows(index_t n, index_t, index_t) const { return n <= 6; }
  template <class S>
  void project(const projection_call<joined, float>& p, std::span<const S> sequences) {
    const matrix y = temporary(p.x.extents());
    plain::norm(y, p.x, p.norm.weight, {}, p.norm.options);
    if (has(wrong::project_norms_twice)) plain::norm(y, y, p.norm.weight, {}, p.norm.options);
    const std::array outputs{p.q, p.k, p.v};
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      ops::linear<plain, float>(*this, {outputs[i].data(), {y.extent(0), p.maps[i].w->rows()}}, y,
                                *p.maps[i].w, p.maps[i].bias);
    }
    plain::rope(p.q, p.positions, p.frequencies, p.rope);
    if (!has(wrong::project_leaves_the_keys_unturned)) {
      plain::rope(p.k, p.positions, p.frequencies, p.rope);
    }
    if (!has(wrong::project_appends_nothing)) compose_append<S>(p.k, p.v, sequences);
  }
  void gated(const gated_call<joined, float>& g) {
    gated_call<plain, float> call{
        g.o,   g.x, {g.norm.weight, g.norm.options}, {g.gate.w, g.gate.bias}, {g.up.w, g.up.bias},
        g.kind};
    if (has(wrong::gated_ignores_biases)) call.gate.bias = call.up.bias = {};
    if (has(wrong::gated_is_always_silu)) call.kind = activation_kind::silu;
    composed::gated<plain, float>(*this, call, temporary(g.x.extents()), temporary(g.o.extents()));
  }

 private:
  bool has(wrong kind) const { return kind_ == kind; }
  template <class S>
  void compose_append(tensor_view<const float, 3> k, tensor_view<const float, 3> v,
                      std::span<const S> sequences) {
    composed::append<plain, float, S>(*this, k, v, sequences);
  }
  matrix temporary(std::array<index_t, 2> extents) {
    auto& memory = temporaries_.emplace_back(static_cast<std::size_t>(extents[0] * extents[1]));
    return {memory.data(), extents};
  }

  wrong kind_;
  std::deque<std::vector<float>> temporaries_;
};
static_assert(Backend<joined>);

report found_on(wrong kind) {
  joined be(kind);
  report all;
  run_fused<float>(be, all);
  return all;
}

TEST_CASE("calls of several that give what their compositions give pass, as native ones") {
  const report all = found_on(wrong::nothing);
  CHECK_MESSAGE(all.passed(), format(all));
  for (const std::string_view op : {"linears", "append", "attention_batch", "project", "gated"}) {
    CAPTURE(op);
    const auto n = std::count_if(all.results().begin(), all.results().end(), [&](const result& r) {
      return r.op == op && r.path == "native" && !r.skipped();
    });
    // Of few rows no more than the backend takes.
    CHECK((op == "project" || op == "gated" ? n == 6 : n > 6));
  }
  CHECK(all.n_skipped() == 4);  // Seven and eight rows, of both.
}

TEST_CASE(
    "every fault of a call of several fails the suite in cases of that call, and only there") {
  for (const entry& e : table) {
    CAPTURE(static_cast<int>(e.kind));
    const report all = found_on(e.kind);
    CHECK_FALSE(all.passed());
    for (const result& r : all.results()) {
      if (!r.passed() && !r.skipped()) CHECK_MESSAGE(r.op == e.op, to_string(r));
    }
  }
}

TEST_CASE("a suite of primitives reaches them too") {
  joined be(wrong::gated_is_always_silu);
  report all;
  run(be, all, {.model_shapes = false});
  CHECK_FALSE(all.passed());
}

}  // namespace
}  // namespace gistkv::conformance
