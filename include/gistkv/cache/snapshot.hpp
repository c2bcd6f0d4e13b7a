// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/cache/snapshot_reader.hpp>
#include <gistkv/cache/snapshot_sections.hpp>

/// Gist caches and soft tokens as bytes, to be kept, sent and shared: docs/format.md. Rows lie in a
/// file as in the cache, so that a mapped file serves as they are, to many processes at once.

namespace gistkv::cache {

namespace detail {

/// The rows of [n_kv_heads, rows, head_dim], head after head, as they lie in memory.
template <class B, class T>
void write_heads(B& be, const tensor_view<const T, 3, space_of<B>>& x, index_t head,
                 const byte_sink& sink) {
  const auto n = static_cast<std::size_t>(x.extent(1)) * stored_row_bytes<T>(x.extent(2));
  if (n == 0) return;
  if constexpr (std::same_as<space_of<B>, host_space>) {
    sink({reinterpret_cast<const std::byte*>(x.at(head).data()), n});
  } else {
    std::vector<std::byte> host(n);
    be.download(host.data(), x.at(head).data(), n);
    sink(host);
  }
}

/// Keys and values of parts that are laid end to end.
template <class B, class T>
void write_rows(B& be, std::span<const kv_span<T, space_of<B>>> parts, index_t n_kv_heads,
                const byte_sink& sink) {
  std::size_t n_bytes = 0;
  const auto block = [&](const auto part) {
    for (index_t h = 0; h < n_kv_heads; ++h) {
      for (const auto& p : parts) {
        const auto& x = p.*part;
        if (x.extent(1) > 0) write_heads<B, T>(be, x, h, sink);
        n_bytes += static_cast<std::size_t>(x.extent(1)) * stored_row_bytes<T>(x.extent(2));
      }
    }
  };
  block(&kv_span<T, space_of<B>>::k);
  constexpr std::array<std::byte, section_alignment> zeros{};
  sink(std::span(zeros).first(aligned(n_bytes) - n_bytes));
  block(&kv_span<T, space_of<B>>::v);
}

/// Writes a block of a file to the rows of a cache, whose type may be another.
template <class B, class T>
void put_heads(B& be, const tensor_view<T, 3, space_of<B>>& x, std::span<const std::byte> block,
               stored_type type) {
  const index_t d = x.extent(2);
  const auto n_rows = static_cast<std::size_t>(x.extent(1));
  if (n_rows == 0) return;
  const std::size_t head_bytes = n_rows * stored_row_bytes(type, d);
  if (type == stored_type_of<T>()) {
    for (index_t h = 0; h < x.extent(0); ++h) {
      be.upload(x.at(h).data(), block.data() + static_cast<std::size_t>(h) * head_bytes,
                head_bytes);
    }
    return;
  }
  with_stored_type(type, [&]<class S>(S) {
    std::vector<S> stored(static_cast<std::size_t>(row_width<S>(d)));
    std::vector<float> row(static_cast<std::size_t>(d));
    std::vector<T> rows(n_rows * static_cast<std::size_t>(row_width<T>(d)));
    for (index_t h = 0; h < x.extent(0); ++h) {
      for (std::size_t r = 0; r < n_rows; ++r) {
        const std::size_t row_bytes = stored_row_bytes<S>(d);
        std::memcpy(static_cast<void*>(stored.data()),
                    block.data() + static_cast<std::size_t>(h) * head_bytes + r * row_bytes,
                    row_bytes);
        decode_row(stored.data(), d, row.data());
        encode_row(row.data(), d, rows.data() + r * static_cast<std::size_t>(row_width<T>(d)));
      }
      be.upload(x.at(h).data(), rows.data(), rows.size() * sizeof(T));
    }
  });
}

}  // namespace detail

/// Writes a cache, with everything needed to go on from it elsewhere, to a sink: nothing is copied
/// but rows that do not lie in the memory of the host. A shared prefix is written out.
/// @param soft  soft tokens that the model is to read behind the rows of the cache
/// @throws argument_error while an append is under way; shape_error as validate(soft_prompt).
template <Storage B, class T>
void write_snapshot(const gist_cache<B, T>& cache, const snapshot_info& info,
                    const model::soft_prompt& soft, const byte_sink& sink) {
  using detail::section_kind;
  cache.expect_whole("a snapshot");
  model::validate(soft);
  const cache_shape shape = cache.shape();
  const cache_options& o = cache.options();
  row_ledger ledger = cache.ledger();
  ledger.forget_dead_rows();
  const row_ledger::state state = ledger.save();

  detail::byte_writer description;
  for (const std::uint64_t f : {info.model, info.tokenizer, info.adapter}) description.put(f);
  description.put(static_cast<std::uint64_t>(stored_type_of<T>()));
  for (const index_t n : {shape.n_layers, shape.n_kv_heads, shape.head_dim, o.rule.n_gist,
                          o.rule.recent, o.rule.n_sink, o.rule.window, o.max_anchors}) {
    description.put(n);
  }
  description.put(static_cast<std::uint64_t>(o.on_overflow));
  description.put(state.next_position);
  description.put(state.first_local);
  description.put(state.n_open_gists);
  for (const std::size_t n : {state.anchors.size(), state.locals.size(), state.ends.size()}) {
    description.put(static_cast<std::uint64_t>(n));
  }
  detail::byte_writer books;
  for (const auto* rows : {&state.anchors, &state.locals}) {
    for (const row& r : *rows) {
      books.put(static_cast<std::int32_t>(r.kind));
      books.put(r.sentence);
      books.put(r.position);
    }
  }
  for (const auto& e : state.ends) {
    books.put(e.first);
    books.put(e.second);
  }
  detail::byte_writer entries;
  entries.put(static_cast<std::uint64_t>(info.entries.size()));
  for (const auto& [key, value] : info.entries) {
    entries.put(key);
    entries.put(value);
  }
  detail::byte_writer soft_tokens;
  soft_tokens.put(soft.d_model);
  soft_tokens.put(static_cast<std::uint64_t>(soft.rows.size()));
  soft_tokens.put_bytes(std::as_bytes(std::span(soft.rows)));

  std::vector<detail::section_source> sections;
  const auto add = [&](section_kind kind, const detail::byte_writer& w) {
    sections.push_back({kind, 0, [&w](const byte_sink& to) { to(w.bytes); }});
  };
  add(section_kind::description, description);
  add(section_kind::books, books);
  add(section_kind::entries, entries);
  if (!soft.rows.empty() || soft.d_model != 0) add(section_kind::soft_tokens, soft_tokens);
  B& be = cache.backend();
  using rows = kv_span<T, space_of<B>>;
  for (index_t l = 0; l < shape.n_layers; ++l) {
    sections.push_back(
        {section_kind::anchors, static_cast<std::uint32_t>(l), [&, l](const byte_sink& to) {
           const index_t n = cache.n_shared();
           std::array parts{rows{}, cache.anchor_rows(l, n, cache.n_anchors() - n)};
           if (n > 0) parts[0] = cache.anchor_rows(l, 0, n);
           detail::write_rows<B, T>(be, parts, shape.n_kv_heads, to);
         }});
  }
  for (index_t l = 0; l < shape.n_layers; ++l) {
    sections.push_back(
        {section_kind::local_rows, static_cast<std::uint32_t>(l), [&, l](const byte_sink& to) {
           const std::array parts{cache.local_rows(l)};
           detail::write_rows<B, T>(be, parts, shape.n_kv_heads, to);
         }});
  }
  detail::write_sections(sections, sink);
}

/// The same as one block of bytes.
template <Storage B, class T>
std::vector<std::byte> save_snapshot(const gist_cache<B, T>& cache, const snapshot_info& info,
                                     const model::soft_prompt& soft = {}) {
  std::vector<std::byte> bytes;
  write_snapshot(cache, info, soft, [&bytes](std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  });
  return bytes;
}

template <Storage B, class T>
struct loaded_snapshot {
  gist_cache<B, T> cache;
  snapshot_info info;
  model::soft_prompt soft;
};

/// A cache of T in a backend's memory with what a snapshot holds; rows of another type are
/// converted.
/// @param owner  keeps the bytes for as long as a cache reads them: then anchors are not copied
///               where the backend computes in the host's memory, their type is T and the bytes
///               begin at a multiple of 64; null: everything is copied
template <class T, Storage B>
loaded_snapshot<B, T> load_snapshot(B& be, snapshot_contents contents,
                                    const std::shared_ptr<const void>& owner = {}) {
  snapshot_contents& c = contents;
  std::shared_ptr<const kv_prefix<B, T>> prefix;
  if constexpr (std::same_as<space_of<B>, host_space>) {
    const index_t width = row_width<T>(c.shape.head_dim);
    const index_t n = c.n_anchors();
    const auto lies_well = [](std::span<const std::byte> rows) {
      return reinterpret_cast<std::uintptr_t>(rows.data()) % detail::section_alignment == 0;
    };
    // Old versions have no gaps between blocks.
    const bool usable = owner && n > 0 && c.version > 2 && c.type == stored_type_of<T>() &&
                        lies_well(c.layers.front().anchor_keys);
    const auto view = [&](std::span<const std::byte> rows) {
      return tensor_view<const T, 3, host_space>(reinterpret_cast<const T*>(rows.data()),
                                                 {c.shape.n_kv_heads, n, c.shape.head_dim},
                                                 {n * width, width, 1});
    };
    std::vector<kv_span<T, host_space>> layers;
    for (std::size_t l = 0; usable && l < c.layers.size(); ++l) {
      layers.push_back({view(c.layers[l].anchor_keys), view(c.layers[l].anchor_values)});
    }
    if (usable) prefix = std::make_shared<kv_prefix<B, T>>(std::move(layers), n, owner);
  }
  const bool mapped = prefix != nullptr;
  auto cache =
      gist_cache<B, T>::restore(be, c.shape, c.options, std::move(c.books), std::move(prefix));
  for (index_t l = 0; l < c.shape.n_layers; ++l) {
    const auto& rows = c.layers[static_cast<std::size_t>(l)];
    const auto views = cache.layer(l);
    if (!mapped) {
      detail::put_heads<B, T>(be, views.anchor_keys, rows.anchor_keys, c.type);
      detail::put_heads<B, T>(be, views.anchor_values, rows.anchor_values, c.type);
    }
    detail::put_heads<B, T>(be, views.local_keys, rows.local_keys, c.type);
    detail::put_heads<B, T>(be, views.local_values, rows.local_values, c.type);
  }
  return {std::move(cache), std::move(c.info), std::move(c.soft)};
}

/// The same from bytes, which may go afterwards unless an owner keeps them.
/// @param name  what errors call the bytes, usually the file
/// @throws format_error if the bytes are not a whole and unchanged snapshot of a known version.
template <class T, Storage B>
loaded_snapshot<B, T> load_snapshot(B& be, std::span<const std::byte> bytes, std::string_view name,
                                    const std::shared_ptr<const void>& owner = {}) {
  return load_snapshot<T>(be, read_snapshot(bytes, name), owner);
}

}  // namespace gistkv::cache
