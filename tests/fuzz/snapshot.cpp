// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// libFuzzer target: any bytes as a compressed context, as the payload of an old one, and as changes
// to the sections of a good one whose checksums are then made right. What loads must be a cache
// that can be read, continued, cut and saved. Build with clang++ -std=c++20 -g -O1
// -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/snapshot.cpp

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include <gistkv/cache/snapshot.hpp>
#include <gistkv/core/error.hpp>

#include "../support/memory_backend.hpp"

namespace {

using namespace gistkv;
using bytes = std::vector<std::byte>;
using cache_type = cache::gist_cache<test::memory_backend, bf16>;

void require(bool holds) {
  if (!holds) std::abort();
}

bytes good_file(test::memory_backend& be) {
  random_generator random(1);
  cache_type c(be, {2, 1, 2}, {{2, 1, 1, 0}});
  const std::array<std::uint8_t, 15> flags = {0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1};
  test::append_random(c, flags, random);
  return cache::save_snapshot(c, {1, 2, 3, {{"key", "value"}}}, {1, {0.5F, 2.0F}});
}

/// The file with bytes of its sections replaced, as three bytes of the input each say, and sealed.
bytes changed(const bytes& file, std::span<const std::byte> input) {
  using namespace cache::detail;
  const snapshot_sections sections(file, "good");
  std::vector<std::pair<std::pair<section_kind, std::uint32_t>, bytes>> all;
  for (const auto kind :
       {section_kind::description, section_kind::books, section_kind::entries,
        section_kind::soft_tokens, section_kind::anchors, section_kind::local_rows}) {
    for (std::uint32_t i = 0; i < (kind >= section_kind::anchors ? 2U : 1U); ++i) {
      const auto content = sections.find(kind, i);
      all.push_back({{kind, i}, bytes(content.begin(), content.end())});
    }
  }
  // Mostly the description and the books: the rows are only numbers.
  for (; input.size() >= 3; input = input.subspan(3)) {
    bytes& section = all[std::to_integer<std::size_t>(input[0]) % 2].second;
    bytes& other = all[std::to_integer<std::size_t>(input[0]) % all.size()].second;
    bytes& target = std::to_integer<int>(input[0]) < 192 ? section : other;
    const auto at = std::to_integer<std::size_t>(input[1]);
    if (at == 255 && !target.empty()) target.pop_back();
    if (at == 254) target.push_back(input[2]);
    if (at < target.size()) target[at] = input[2];
  }
  std::vector<section_source> sources;
  for (const auto& [name, content] : all) {
    sources.push_back(
        {name.first, name.second, [&c = content](const cache::byte_sink& to) { to(c); }});
  }
  bytes result;
  write_sections(sources, [&](std::span<const std::byte> more) {
    result.insert(result.end(), more.begin(), more.end());
  });
  return result;
}

/// Version 2 with this payload.
bytes old_file(std::span<const std::byte> payload) {
  cache::detail::byte_writer w;
  w.put_bytes(std::as_bytes(std::span(cache::detail::snapshot_magic)));
  w.put(std::uint32_t{2});
  w.put(std::uint32_t{0});
  w.put(static_cast<std::uint64_t>(payload.size()));
  w.put(hash_bytes(payload));
  w.put_bytes(payload);
  return w.bytes;
}

void go_on(cache_type& c) {
  random_generator random(2);
  for (const std::uint8_t gist : {0, 1, 1, 0, 1}) {
    const std::array<std::uint8_t, 1> flags = {gist};
    const auto plan = c.begin_append(flags);
    for (const visible_spans& s : plan.spans) {
      const auto rows = c.layer(0).visible;
      require(s.anchors >= 0 && s.anchors <= rows.shared.rows() + rows.own.rows());
      require(s.local_begin >= 0 && s.local_end <= rows.local.rows());
    }
    c.cancel();
    test::append_random(c, flags, random);
  }
  const auto saved = cache::save_snapshot(c, {});
  test::memory_backend be;
  auto again = cache::load_snapshot<bf16>(be, saved, "again");
  require(again.cache.ledger().rows() == c.ledger().rows());
  c.erase(0, c.ledger().n_closed() / 2);
  cache::load_snapshot<bf16>(be, cache::save_snapshot(c, {}), "cut");
}

void read(std::span<const std::byte> file) {
  test::memory_backend be;
  try {
    auto loaded = cache::load_snapshot<bf16>(be, file, "fuzz");
    const cache::cache_shape& shape = loaded.cache.shape();
    // No rows of any shape take no bytes, but the first row might take all memory.
    if (shape.n_layers * shape.n_kv_heads * shape.head_dim < 1000) go_on(loaded.cache);
  } catch (const format_error&) {
    // The one way out for a file that is not what it should be.
  } catch (const argument_error&) {
    // A budget that refuses, a last position.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static test::memory_backend be;
  static const bytes good = good_file(be);
  const auto input = std::as_bytes(std::span(data, size));
  read(input);
  read(old_file(input));
  read(changed(good, input));
  return 0;
}
