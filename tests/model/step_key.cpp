// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// What makes a step another one than before, and what does not.
#include <doctest/doctest.h>

#include <cstdint>
#include <functional>
#include <vector>

#include <gistkv/model/step_key.hpp>

namespace gistkv {
namespace {

using sequence = model::sequence_kv<float, host_space>;

/// Two heads of rows of 4; a decode step behind 100 anchors, 30 of them shared, and 10 local rows.
struct step {
  std::vector<float> memory = std::vector<float>(10000);
  std::vector<std::int32_t> lists = std::vector<std::int32_t>(100);
  std::vector<visible_spans> spans = std::vector<visible_spans>(8);
  sequence s;

  step() {
    s.count = 1;
    s.spans = {spans, spans.data()};
    s.anchor_rows = {lists.data(), {1}};
    s.local_rows = {lists.data() + 16, {1}};
    s.visible = {part(0, 30), part(2000, 70), part(6000, 10)};
  }
  kv_span<float, host_space> part(index_t at, index_t rows, index_t capacity = 100) {
    const auto view = [&](index_t from) {
      return tensor_view<const float, 3>(memory.data() + from, {2, rows, 4}, {capacity * 4, 4, 1});
    };
    return {view(at), view(at + 1000)};
  }
  replay_key key() const {
    replay_key k;
    model::add_to_key(k, s);
    model::add_layer_to_key(k, s);
    return k;
  }
};

TEST_CASE("a step is the same while its cache grows in place, and another if it moves") {
  step t;
  const sequence before = t.s;
  const replay_key key = t.key();
  const auto key_with = [&](const std::function<void(sequence&)>& change) {
    t.s = before;
    change(t.s);
    return t.key();
  };
  CHECK(key_with([](sequence&) {}) == key);
  // More anchors, more local rows, other numbers in the lists.
  CHECK(key_with([&](sequence& s) { s.visible.own = t.part(2000, 80); }) == key);
  CHECK(key_with([&](sequence& s) { s.visible.local = t.part(6000, 17); }) == key);
  t.lists[0] = 7;
  t.spans[0].anchors = 12;
  CHECK(key_with([](sequence&) {}) == key);

  CHECK(key_with([](sequence& s) { s.count = 2; }) != key);
  CHECK(key_with([](sequence& s) { s.inner_gists = {0, 1}; }) != key);
  CHECK(key_with([](sequence& s) { s.inner_gists = {1, 1}; }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.own = t.part(2004, 70); }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.local.v = t.part(6004, 10).v; }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.own = t.part(2000, 70, 120); }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.own = t.part(2000, 0); }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.local = t.part(6000, 0); }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.shared = t.part(0, 29); }) != key);
  CHECK(key_with([&](sequence& s) { s.visible.own = t.part(2000, 88); }) != key);  // 128 keys.
  CHECK(key_with([&](sequence& s) { s.anchor_rows = {t.lists.data() + 1, {1}}; }) != key);
  CHECK(key_with([&](sequence& s) { s.local_rows = {t.lists.data() + 1, {1}}; }) != key);
  CHECK(key_with([&](sequence& s) { s.spans.in_backend_memory = t.spans.data() + 1; }) != key);
  CHECK(key_with([&](sequence& s) {
          s.gist_rows = {t.lists.data() + 32, {1}};
        }) != key_with([&](sequence& s) {
          s.gist_rows = {t.lists.data() + 32, {2}};
        }));
  CHECK(key_with([&](sequence& s) {
          s.gist_rows = {t.lists.data() + 32, {1}};
        }) != key_with([&](sequence& s) {
          s.gist_rows = {t.lists.data() + 33, {1}};
        }));
}

}  // namespace
}  // namespace gistkv
