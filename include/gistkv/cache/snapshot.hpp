// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/cache/gist_cache.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>
#include <gistkv/core/q8.hpp>
#include <gistkv/model/soft_prompt.hpp>

/// A compressed context as a sequence of bytes, version 2. Little-endian:
///   8 bytes "GKVCACHE", u32 version, u32 0, u64 length and u64 XXH64 of the payload, payload.
/// The payload is the fingerprints, the free entries, soft tokens (width and number of their
/// float32 elements, then these), shape, rule and books of the cache, and then the rows in float32:
/// per layer keys and values of the anchors [head][row][dim], then of the live local rows.
/// Version 1 had no soft tokens.

namespace gistkv::cache {

static_assert(std::endian::native == std::endian::little, "snapshots are written as they lie");

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

namespace detail {

inline constexpr std::string_view snapshot_magic = "GKVCACHE";
inline constexpr std::uint32_t snapshot_version = 2;
inline constexpr std::size_t snapshot_header = 32;

class byte_writer {
 public:
  template <class U>
  requires std::is_arithmetic_v<U>
  void put(U value) { put_bytes(std::as_bytes(std::span(&value, 1))); }
  void put(std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    put_bytes(std::as_bytes(std::span(text)));
  }
  void put_bytes(std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  std::vector<std::byte> bytes;
};

class byte_source {
 public:
  byte_source(std::span<const std::byte> bytes, std::string_view name)
      : bytes_(bytes), name_(name) {}

  template <class U>
  requires std::is_arithmetic_v<U> U get(std::string_view field) {
    U value;
    std::memcpy(&value, take(sizeof(U), field).data(), sizeof(U));
    return value;
  }
  /// A number of elements of at least `element_bytes` each, which must all be there.
  std::size_t get_count(std::size_t element_bytes, std::string_view field) {
    const auto n = get<std::uint64_t>(field);
    if (n > bytes_.size() / element_bytes) fail(field, n * element_bytes);
    return static_cast<std::size_t>(n);
  }
  std::string get_text(std::string_view field) {
    const auto text = take(get_count(1, field), field);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }
  std::span<const std::byte> take(std::size_t n, std::string_view field) {
    if (n > bytes_.size()) fail(field, n);
    const auto head = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return head;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  [[noreturn]] void fail(std::string_view field, std::uint64_t need) const {
    throw format_error(std::string(name_) + ": " + std::string(field) + " needs " +
                       std::to_string(need) + " bytes, " + std::to_string(bytes_.size()) +
                       " are left");
  }
  std::span<const std::byte> bytes_;
  std::string_view name_;
};

inline void put_rows(byte_writer& w, const std::vector<row>& rows) {
  w.put(static_cast<std::uint64_t>(rows.size()));
  for (const row& r : rows) {
    w.put(static_cast<std::uint8_t>(r.kind));
    w.put(r.sentence);
    w.put(r.position);
  }
}
inline std::vector<row> get_rows(byte_source& s, std::string_view field, std::string_view name) {
  std::vector<row> rows(s.get_count(9, field));
  for (row& r : rows) {
    const auto kind = s.get<std::uint8_t>(field);
    if (kind > static_cast<std::uint8_t>(row_kind::regular)) {
      throw format_error(std::string(name) + ": row kind " + std::to_string(kind) +
                         ", expected 0 to 2");
    }
    r.kind = static_cast<row_kind>(kind);
    r.sentence = s.get<std::int32_t>(field);
    r.position = s.get<std::int32_t>(field);
  }
  return rows;
}

/// Head blocks of [n_kv_heads, rows, head_dim] as float32, one after the other.
template <class B, class T>
void put_tensor(byte_writer& w, B& be, const tensor_view<const T, 3, space_of<B>>& x) {
  const index_t width = row_width<T>(x.extent(2));
  std::vector<T> block(static_cast<std::size_t>(x.extent(1) * width));
  std::vector<float> row(static_cast<std::size_t>(x.extent(2)));
  for (index_t h = 0; h < x.extent(0) && !block.empty(); ++h) {
    be.download(block.data(), x.at(h).data(), block.size() * sizeof(T));
    for (index_t r = 0; r < x.extent(1); ++r) {
      decode_row(block.data() + r * width, x.extent(2), row.data());
      w.put_bytes(std::as_bytes(std::span(row)));
    }
  }
}
template <class B, class T>
void get_tensor(byte_source& s, B& be, const tensor_view<T, 3, space_of<B>>& x) {
  const index_t width = row_width<T>(x.extent(2));
  std::vector<T> block(static_cast<std::size_t>(x.extent(1) * width));
  std::vector<float> row(static_cast<std::size_t>(x.extent(2)));
  for (index_t h = 0; h < x.extent(0) && !block.empty(); ++h) {
    for (index_t r = 0; r < x.extent(1); ++r) {
      const auto bytes = s.take(row.size() * sizeof(float), "rows");
      std::memcpy(row.data(), bytes.data(), bytes.size());
      encode_row(row.data(), x.extent(2), block.data() + r * width);
    }
    be.upload(x.at(h).data(), block.data(), block.size() * sizeof(T));
  }
}

}  // namespace detail

/// The cache with everything needed to go on from it elsewhere. A shared prefix is written out.
/// @param soft  soft tokens that the model is to read behind the rows of the cache
template <Storage B, class T>
std::vector<std::byte> save_snapshot(const gist_cache<B, T>& cache, const snapshot_info& info,
                                     const model::soft_prompt& soft = {}) {
  detail::byte_writer w;
  for (const std::uint64_t f : {info.model, info.tokenizer, info.adapter}) w.put(f);
  w.put(static_cast<std::uint64_t>(info.entries.size()));
  for (const auto& [key, value] : info.entries) {
    w.put(key);
    w.put(value);
  }
  w.put(soft.d_model);
  w.put(static_cast<std::uint64_t>(soft.rows.size()));
  w.put_bytes(std::as_bytes(std::span(soft.rows)));
  const cache_shape shape = cache.shape();
  for (const index_t n : {shape.n_layers, shape.n_kv_heads, shape.head_dim}) w.put(n);
  const cache_options& o = cache.options();
  for (const index_t n :
       {o.rule.n_gist, o.rule.recent, o.rule.n_sink, o.rule.window, o.max_anchors}) {
    w.put(n);
  }
  w.put(static_cast<std::uint8_t>(o.on_overflow));
  row_ledger books = cache.ledger();
  books.forget_dead_rows();
  const row_ledger::state state = books.save();
  w.put(state.next_position);
  w.put(state.n_open_gists);
  w.put(state.first_local);
  detail::put_rows(w, state.anchors);
  detail::put_rows(w, state.locals);
  w.put(static_cast<std::uint64_t>(state.ends.size()));
  for (const auto& e : state.ends) {
    w.put(e.first);
    w.put(e.second);
  }
  B& be = cache.backend();
  const index_t n_shared = cache.n_shared();
  for (index_t l = 0; l < shape.n_layers; ++l) {
    const auto shared = cache.anchor_rows(l, 0, n_shared);
    const auto own = cache.anchor_rows(l, n_shared, cache.n_anchors() - n_shared);
    const auto local = cache.local_rows(l);
    for (const auto part : {&kv_span<T, space_of<B>>::k, &kv_span<T, space_of<B>>::v}) {
      for (index_t h = 0; h < shape.n_kv_heads; ++h) {
        if (n_shared > 0) detail::put_tensor<B, T>(w, be, (shared.*part).slice(0, h, 1));
        detail::put_tensor<B, T>(w, be, (own.*part).slice(0, h, 1));
      }
      detail::put_tensor<B, T>(w, be, local.*part);
    }
  }

  detail::byte_writer file;
  file.put_bytes(std::as_bytes(std::span(detail::snapshot_magic)));
  file.put(detail::snapshot_version);
  file.put(std::uint32_t{0});
  file.put(static_cast<std::uint64_t>(w.bytes.size()));
  file.put(xxh64().update(std::span<const std::byte>(w.bytes)).digest());
  file.put_bytes(w.bytes);
  return std::move(file.bytes);
}

template <Storage B, class T>
struct loaded_snapshot {
  gist_cache<B, T> cache;
  snapshot_info info;
  model::soft_prompt soft;
};

/// @param name  what errors call the bytes, usually the file
/// @throws format_error if the bytes are not a whole and unchanged snapshot of a known version.
template <class T, Storage B>
loaded_snapshot<B, T> load_snapshot(B& be, std::span<const std::byte> bytes,
                                    std::string_view name) {
  auto fail = [&](const std::string& what) { throw format_error(std::string(name) + ": " + what); };
  const auto magic = std::as_bytes(std::span(detail::snapshot_magic));
  if (bytes.size() < detail::snapshot_header ||
      std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) {
    fail("no compressed context: it does not begin with GKVCACHE");
  }
  detail::byte_source header(bytes.subspan(magic.size()), name);
  const auto version = header.get<std::uint32_t>("version");
  if (version < 1 || version > detail::snapshot_version) {
    fail("version " + std::to_string(version) + ", expected 1 or " +
         std::to_string(detail::snapshot_version));
  }
  if (header.get<std::uint32_t>("reserved field") != 0) fail("reserved field is not 0");
  const auto length = header.get<std::uint64_t>("length");
  const auto hash = header.get<std::uint64_t>("checksum");
  if (length != header.left()) {
    fail("payload of " + std::to_string(length) + " bytes, " + std::to_string(header.left()) +
         " are there");
  }
  const auto payload = header.take(header.left(), "payload");
  if (xxh64().update(payload).digest() != hash)
    fail("checksum does not match: the file is damaged");

  detail::byte_source s(payload, name);
  snapshot_info info;
  for (std::uint64_t* f : {&info.model, &info.tokenizer, &info.adapter}) {
    *f = s.get<std::uint64_t>("fingerprint");
  }
  info.entries.resize(s.get_count(16, "entries"));
  for (auto& [key, value] : info.entries) {
    key = s.get_text("entry");
    value = s.get_text("entry");
  }
  model::soft_prompt soft;
  if (version > 1) {
    soft.d_model = s.get<index_t>("width of soft tokens");
    soft.rows.resize(s.get_count(sizeof(float), "soft tokens"));
    const auto rows = s.take(soft.rows.size() * sizeof(float), "soft tokens");
    if (!rows.empty()) std::memcpy(soft.rows.data(), rows.data(), rows.size());
    const auto width = static_cast<std::uint64_t>(soft.d_model);
    if (soft.d_model < 0 || (width == 0 ? !soft.rows.empty() : soft.rows.size() % width != 0)) {
      fail("soft tokens of " + std::to_string(soft.rows.size()) + " elements and width " +
           std::to_string(soft.d_model));
    }
  }
  cache_shape shape;
  for (index_t* n : {&shape.n_layers, &shape.n_kv_heads, &shape.head_dim}) {
    *n = s.get<index_t>("shape");
    if (*n < 1 || *n > 65536) {
      fail("extent " + std::to_string(*n) + " out of range");
    }
  }
  cache_options o;
  for (index_t* n :
       {&o.rule.n_gist, &o.rule.recent, &o.rule.n_sink, &o.rule.window, &o.max_anchors}) {
    *n = s.get<index_t>("rule");
  }
  o.on_overflow = s.get<std::uint8_t>("budget policy") == 0 ? budget_policy::drop_oldest
                                                            : budget_policy::refuse;
  row_ledger::state state;
  state.rule = o.rule;
  state.next_position = s.get<std::int32_t>("position");
  state.n_open_gists = s.get<index_t>("open gists");
  state.first_local = s.get<std::int32_t>("first local row");
  state.anchors = detail::get_rows(s, "anchors", name);
  state.locals = detail::get_rows(s, "local rows", name);
  state.ends.resize(s.get_count(8, "sentence ends"));
  for (auto& e : state.ends) {
    e.first = s.get<std::int32_t>("sentence ends");
    e.second = s.get<std::int32_t>("sentence ends");
  }
  const auto row_bytes = static_cast<double>(shape.n_layers * shape.n_kv_heads) * 8.0 *
                         static_cast<double>(shape.head_dim);
  const auto n_rows = static_cast<double>(state.anchors.size() + state.locals.size());
  if (n_rows * row_bytes != static_cast<double>(s.left())) {
    fail("rows take " + std::to_string(s.left()) + " bytes, their extents say otherwise");
  }
  auto cache = gist_cache<B, T>::restore(be, shape, o, row_ledger::load(state));
  for (index_t l = 0; l < shape.n_layers; ++l) {
    const auto views = cache.layer(l);
    detail::get_tensor<B, T>(s, be, views.anchor_keys);
    detail::get_tensor<B, T>(s, be, views.local_keys);
    detail::get_tensor<B, T>(s, be, views.anchor_values);
    detail::get_tensor<B, T>(s, be, views.local_values);
  }
  return {std::move(cache), std::move(info), std::move(soft)};
}

}  // namespace gistkv::cache
