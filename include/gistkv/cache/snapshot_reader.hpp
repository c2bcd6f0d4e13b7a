// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/cache/snapshot_sections.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/model/soft_prompt.hpp>

/// What a snapshot of any version holds, without a backend: docs/format.md.

namespace gistkv::cache {

/// What a snapshot says about its origin. Fingerprints that differ from those of the model at hand
/// mean that the rows are of no use with it; whoever loads compares them.
struct snapshot_info {
  std::uint64_t model = 0;
  std::uint64_t tokenizer = 0;
  std::uint64_t adapter = 0;
  std::vector<std::pair<std::string, std::string>> entries;  ///< Free for the program.

  /// Value of an entry, or nullptr.
  const std::string* find(std::string_view key) const {
    for (const auto& e : entries) {
      if (e.first == key) return &e.second;
    }
    return nullptr;
  }
};

/// Element types of rows, by their numbers in files.
enum class stored_type : std::uint64_t { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, q8 = 4 };

constexpr std::string_view to_string(stored_type type) {
  constexpr std::string_view names[] = {"f32", "f64", "bf16", "f16", "q8"};
  return names[static_cast<std::size_t>(type)];
}

template <class T>
constexpr stored_type stored_type_of() {
  if constexpr (std::same_as<T, double>) return stored_type::f64;
  if constexpr (std::same_as<T, bf16>) return stored_type::bf16;
  if constexpr (std::same_as<T, f16>) return stored_type::f16;
  if constexpr (std::same_as<T, q8>) return stored_type::q8;
  if constexpr (std::same_as<T, float>) return stored_type::f32;
}

/// Calls f with a value of the type.
template <class F>
decltype(auto) with_stored_type(stored_type type, F&& f) {
  switch (type) {
    case stored_type::f64:
      return f(double{});
    case stored_type::bf16:
      return f(bf16{});
    case stored_type::f16:
      return f(f16{});
    case stored_type::q8:
      return f(q8{});
    case stored_type::f32:
      break;
  }
  return f(float{});
}

/// Bytes of one row of one head.
template <class T>
constexpr std::size_t stored_row_bytes(index_t head_dim) {
  return sizeof(T) * static_cast<std::size_t>(row_width<T>(head_dim));
}
inline std::size_t stored_row_bytes(stored_type type, index_t head_dim) {
  return with_stored_type(type, [&]<class T>(T) { return stored_row_bytes<T>(head_dim); });
}

/// A snapshot taken apart. Rows point into the bytes that were read.
struct snapshot_contents {
  std::uint32_t version = 0;
  snapshot_info info;
  stored_type type = stored_type::f32;
  cache_shape shape;
  cache_options options;
  row_ledger books{cache_rule{}};
  model::soft_prompt soft;

  /// Of a layer, each [n_kv_heads][rows][stored_row_bytes].
  struct layer {
    std::span<const std::byte> anchor_keys;
    std::span<const std::byte> anchor_values;
    std::span<const std::byte> local_keys;
    std::span<const std::byte> local_values;
  };
  std::vector<layer> layers;

  index_t n_anchors() const { return static_cast<index_t>(books.anchors().size()); }
  index_t n_local() const { return books.local_end() - books.live_begin(); }
};

namespace detail {

[[noreturn]] inline void fail_snapshot(std::string_view name, const std::string& what) {
  throw format_error(std::string(name) + ": " + what);
}

inline std::vector<std::pair<std::string, std::string>> get_entries(byte_source& s) {
  std::vector<std::pair<std::string, std::string>> entries(s.get_count(16, "entries"));
  for (auto& [key, value] : entries) {
    key = s.get_text("entry");
    value = s.get_text("entry");
  }
  return entries;
}

inline model::soft_prompt get_soft(byte_source& s, std::string_view name) {
  model::soft_prompt soft;
  soft.d_model = s.get<index_t>("width of soft tokens");
  soft.rows.resize(s.get_count(sizeof(float), "soft tokens"));
  const auto rows = s.take(soft.rows.size() * sizeof(float), "soft tokens");
  if (!rows.empty()) std::memcpy(soft.rows.data(), rows.data(), rows.size());
  const auto width = static_cast<std::uint64_t>(soft.d_model);
  if (soft.d_model < 0 || (width == 0 ? !soft.rows.empty() : soft.rows.size() % width != 0)) {
    fail_snapshot(name, "soft tokens of " + std::to_string(soft.rows.size()) +
                            " elements and width " + std::to_string(soft.d_model));
  }
  return soft;
}

inline cache_shape get_shape(byte_source& s, std::string_view name) {
  cache_shape shape;
  for (index_t* n : {&shape.n_layers, &shape.n_kv_heads, &shape.head_dim}) {
    *n = s.get<index_t>("shape");
    if (*n < 1 || *n > 65536) fail_snapshot(name, "extent " + std::to_string(*n) + " out of range");
  }
  return shape;
}

inline cache_options get_options(byte_source& s, std::string_view name) {
  cache_options o;
  for (index_t* n :
       {&o.rule.n_gist, &o.rule.recent, &o.rule.n_sink, &o.rule.window, &o.max_anchors}) {
    *n = s.get<index_t>("rule");
  }
  try {
    validate(o);
  } catch (const argument_error& e) {
    fail_snapshot(name, e.what());
  }
  return o;
}

/// A row with its kind in an element of Kind: a byte in versions 1 and 2.
template <class Kind>
std::vector<row> get_rows(byte_source& s, std::uint64_t n, std::string_view name) {
  std::vector<row> rows(s.checked_count(n, sizeof(Kind) + 8, "rows of the books"));
  for (row& r : rows) {
    const auto kind = s.get<Kind>("row");
    if (kind > static_cast<Kind>(row_kind::regular)) {
      fail_snapshot(name, "row kind " + std::to_string(kind) + ", expected 0 to 2");
    }
    r.kind = static_cast<row_kind>(kind);
    r.sentence = s.get<std::int32_t>("row");
    r.position = s.get<std::int32_t>("row");
  }
  return rows;
}

inline void get_ends(byte_source& s, row_ledger::state& state, std::uint64_t n) {
  state.ends.resize(s.checked_count(n, 8, "sentence ends"));
  for (auto& e : state.ends) {
    e.first = s.get<std::int32_t>("sentence ends");
    e.second = s.get<std::int32_t>("sentence ends");
  }
}

inline row_ledger load_books(const row_ledger::state& state, std::string_view name) {
  try {
    row_ledger books = row_ledger::load(state);
    if (books.live_begin() == state.first_local) return books;
  } catch (const format_error& e) {
    fail_snapshot(name, e.what());
  }
  fail_snapshot(name, "rows are listed that no later row sees");
}

/// Bytes of keys, or of values, of n rows of a layer. @throws format_error if the file is shorter.
inline std::size_t block_bytes(const snapshot_contents& c, index_t n, std::size_t file_bytes,
                               std::string_view name) {
  const std::size_t row =
      static_cast<std::size_t>(c.shape.n_kv_heads) * stored_row_bytes(c.type, c.shape.head_dim);
  if (static_cast<std::size_t>(n) > file_bytes / row) {
    fail_snapshot(name, std::to_string(n) + " rows of " + std::to_string(row) + " bytes in " +
                            std::to_string(file_bytes));
  }
  return static_cast<std::size_t>(n) * row;
}

/// Versions 1 and 2: one payload with one checksum, rows in float32.
inline snapshot_contents read_old_snapshot(std::span<const std::byte> file, std::uint32_t version,
                                           std::string_view name) {
  byte_source header(file.subspan(snapshot_magic.size() + sizeof(version)), name);
  if (header.get<std::uint32_t>("reserved field") != 0) {
    fail_snapshot(name, "reserved field is not 0");
  }
  const auto length = header.get<std::uint64_t>("length");
  const auto hash = header.get<std::uint64_t>("checksum");
  if (length != header.left()) {
    fail_snapshot(name, "payload of " + std::to_string(length) + " bytes, " +
                            std::to_string(header.left()) + " are there");
  }
  const auto payload = header.take(header.left(), "payload");
  if (hash_bytes(payload) != hash) {
    fail_snapshot(name, "checksum does not match: the file is damaged");
  }
  byte_source s(payload, name);
  snapshot_contents c;
  c.version = version;
  for (std::uint64_t* f : {&c.info.model, &c.info.tokenizer, &c.info.adapter}) {
    *f = s.get<std::uint64_t>("fingerprint");
  }
  c.info.entries = get_entries(s);
  if (version > 1) c.soft = get_soft(s, name);
  c.shape = get_shape(s, name);
  c.options = get_options(s, name);
  c.options.on_overflow = s.get<std::uint8_t>("budget policy") == 0 ? budget_policy::drop_oldest
                                                                    : budget_policy::refuse;
  row_ledger::state state;
  state.rule = c.options.rule;
  state.next_position = s.get<std::int32_t>("position");
  state.n_open_gists = s.get<index_t>("open gists");
  state.first_local = s.get<std::int32_t>("first local row");
  state.anchors = get_rows<std::uint8_t>(s, s.get<std::uint64_t>("anchors"), name);
  state.locals = get_rows<std::uint8_t>(s, s.get<std::uint64_t>("local rows"), name);
  get_ends(s, state, s.get<std::uint64_t>("sentence ends"));
  c.books = load_books(state, name);
  const std::size_t anchors = block_bytes(c, c.n_anchors(), s.left(), name);
  const std::size_t local = block_bytes(c, c.n_local(), s.left(), name);
  if (anchors + local > 0) {
    for (index_t l = 0; l < c.shape.n_layers; ++l) {
      auto& layer = c.layers.emplace_back();
      layer.anchor_keys = s.take(anchors, "rows");
      layer.local_keys = s.take(local, "rows");
      layer.anchor_values = s.take(anchors, "rows");
      layer.local_values = s.take(local, "rows");
    }
  } else {
    c.layers.resize(static_cast<std::size_t>(c.shape.n_layers));
  }
  s.expect_end("the rows");
  return c;
}

/// Keys and values of a section of rows, the values at a multiple of 64 bytes.
inline void split_rows(std::span<const std::byte> section, std::size_t block,
                       std::span<const std::byte>& keys, std::span<const std::byte>& values,
                       std::string_view name) {
  const std::size_t values_at = aligned(block);
  if (section.size() != values_at + block) {
    fail_snapshot(name, "rows take " + std::to_string(section.size()) + " bytes, expected " +
                            std::to_string(values_at + block));
  }
  keys = section.first(block);
  values = section.subspan(values_at);
  for (const std::byte gap : section.subspan(block, values_at - block)) {
    if (gap != std::byte{0}) fail_snapshot(name, "a byte between keys and values is not 0");
  }
}

inline snapshot_contents read_new_snapshot(std::span<const std::byte> file, bool verify_rows,
                                           std::string_view name) {
  const snapshot_sections sections(file, name);
  if (verify_rows) sections.verify();
  const auto source = [&](section_kind kind) {
    return byte_source(sections.find(kind, 0, !verify_rows), name);
  };
  snapshot_contents c;
  c.version = 3;
  byte_source s = source(section_kind::description);
  for (std::uint64_t* f : {&c.info.model, &c.info.tokenizer, &c.info.adapter}) {
    *f = s.get<std::uint64_t>("fingerprint");
  }
  const auto type = s.get<std::uint64_t>("cache type");
  if (type > static_cast<std::uint64_t>(stored_type::q8)) {
    fail_snapshot(name, "cache type " + std::to_string(type) + ", expected 0 to 4");
  }
  c.type = static_cast<stored_type>(type);
  c.shape = get_shape(s, name);
  c.options = get_options(s, name);
  const auto policy = s.get<std::uint64_t>("budget policy");
  if (policy > 1) fail_snapshot(name, "budget policy " + std::to_string(policy));
  c.options.on_overflow = policy == 0 ? budget_policy::drop_oldest : budget_policy::refuse;
  row_ledger::state state;
  state.rule = c.options.rule;
  state.next_position = s.get<std::int32_t>("position");
  state.first_local = s.get<std::int32_t>("first local row");
  state.n_open_gists = s.get<index_t>("open gists");
  const auto n_anchors = s.get<std::uint64_t>("anchors");
  const auto n_local = s.get<std::uint64_t>("local rows");
  const auto n_ends = s.get<std::uint64_t>("sentence ends");
  s.expect_end("the description");

  byte_source books = source(section_kind::books);
  state.anchors = get_rows<std::uint32_t>(books, n_anchors, name);
  state.locals = get_rows<std::uint32_t>(books, n_local, name);
  get_ends(books, state, n_ends);
  books.expect_end("the books");
  c.books = load_books(state, name);

  byte_source entries = source(section_kind::entries);
  c.info.entries = get_entries(entries);
  entries.expect_end("the entries");
  byte_source soft = source(section_kind::soft_tokens);
  if (soft.left() > 0) c.soft = get_soft(soft, name);
  soft.expect_end("the soft tokens");

  const std::size_t anchors = block_bytes(c, c.n_anchors(), file.size(), name);
  const std::size_t local = block_bytes(c, c.n_local(), file.size(), name);
  for (index_t l = 0; l < c.shape.n_layers; ++l) {
    auto& layer = c.layers.emplace_back();
    const auto rows = [&](section_kind kind) {
      return sections.find(kind, static_cast<std::uint32_t>(l), false);
    };
    split_rows(rows(section_kind::anchors), anchors, layer.anchor_keys, layer.anchor_values, name);
    split_rows(rows(section_kind::local_rows), local, layer.local_keys, layer.local_values, name);
  }
  return c;
}

}  // namespace detail

/// Takes a snapshot of version 1, 2 or 3 apart.
/// @param name         what errors call the bytes, usually the file
/// @param verify_rows  whether checksums of rows are compared; without, only what else there is can
///                     be relied on, and nearly no byte of a mapped file is touched
/// @throws format_error if the bytes are not a whole and unchanged snapshot of a known version.
inline snapshot_contents read_snapshot(std::span<const std::byte> bytes, std::string_view name,
                                       bool verify_rows = true) {
  const auto magic = std::as_bytes(std::span(detail::snapshot_magic));
  std::uint32_t version = 0;
  if (bytes.size() < magic.size() + sizeof(version) ||
      std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    detail::fail_snapshot(name, "no compressed context: it does not begin with GKVCACHE");
  }
  std::memcpy(&version, bytes.data() + magic.size(), sizeof(version));
  if (version < 1 || version > detail::snapshot_version) {
    detail::fail_snapshot(name, "version " + std::to_string(version) + ", expected 1 to " +
                                    std::to_string(detail::snapshot_version));
  }
  return version < 3 ? detail::read_old_snapshot(bytes, version, name)
                     : detail::read_new_snapshot(bytes, verify_rows, name);
}

}  // namespace gistkv::cache
