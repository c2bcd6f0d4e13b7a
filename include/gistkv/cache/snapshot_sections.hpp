// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gistkv/core/error.hpp>
#include <gistkv/core/hash.hpp>

/// The container of snapshots, version 3: a header, a directory, and sections that begin at
/// multiples of 64 bytes and have a checksum each. docs/format.md has the layout byte by byte.

namespace gistkv::cache {

static_assert(std::endian::native == std::endian::little, "snapshots are written as they lie");

/// Takes bytes one piece after the other.
using byte_sink = std::function<void(std::span<const std::byte>)>;

namespace detail {

inline constexpr std::string_view snapshot_magic = "GKVCACHE";
inline constexpr std::uint32_t snapshot_version = 3;
inline constexpr std::size_t section_alignment = 64;

constexpr std::size_t aligned(std::size_t n) {
  return (n + section_alignment - 1) / section_alignment * section_alignment;
}

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
    return checked_count(get<std::uint64_t>(field), element_bytes, field);
  }
  std::size_t checked_count(std::uint64_t n, std::size_t element_bytes, std::string_view field) {
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
  /// @throws format_error unless all bytes have been taken.
  void expect_end(std::string_view field) const {
    if (bytes_.empty()) return;
    throw format_error(std::string(name_) + ": " + std::to_string(bytes_.size()) +
                       " bytes behind " + std::string(field));
  }

 private:
  [[noreturn]] void fail(std::string_view field, std::uint64_t need) const {
    throw format_error(std::string(name_) + ": " + std::string(field) + " needs " +
                       std::to_string(need) + " bytes, " + std::to_string(bytes_.size()) +
                       " are left");
  }
  std::span<const std::byte> bytes_;
  std::string_view name_;
};

/// What a section is of. Numbers from first_optional on may be passed over by whoever does not know
/// them.
enum class section_kind : std::uint32_t {
  description = 1,
  books = 2,
  entries = 3,
  soft_tokens = 4,
  anchors = 16,  ///< One a layer, as the next.
  local_rows = 17,
};
inline constexpr std::uint32_t first_optional = 0x80000000U;

/// A section to be written: `write` gives its bytes to a sink, the same ones each time.
struct section_source {
  section_kind kind;
  std::uint32_t index;
  std::function<void(const byte_sink&)> write;
};

struct snapshot_header {
  std::array<char, 8> magic = {};
  std::uint32_t version = 0;
  std::uint32_t n_sections = 0;
  std::uint64_t file_bytes = 0;
  std::array<std::uint64_t, 4> zeros = {};
  std::uint64_t hash = 0;  ///< Of the bytes before it and of the directory.
};
static_assert(sizeof(snapshot_header) == section_alignment);

struct directory_entry {
  std::uint32_t kind = 0;
  std::uint32_t index = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint64_t hash = 0;
};
static_assert(sizeof(directory_entry) == 32);

inline std::uint64_t hash_of(const snapshot_header& header, std::span<const std::byte> directory) {
  const auto all = std::as_bytes(std::span(&header, 1));
  return xxh64().update(all.first(all.size() - sizeof(header.hash))).update(directory).digest();
}

/// Writes a file of these sections, which are in ascending order of kind and index. Each is asked
/// for its bytes twice, so that none is kept: once for its checksum, once to be written.
inline void write_sections(std::span<const section_source> sections, const byte_sink& sink) {
  snapshot_header header;
  std::memcpy(header.magic.data(), snapshot_magic.data(), header.magic.size());
  header.version = snapshot_version;
  header.n_sections = static_cast<std::uint32_t>(sections.size());
  std::vector<directory_entry> directory;
  std::size_t end = sizeof(header) + sections.size() * sizeof(directory_entry);
  for (const section_source& s : sections) {
    directory_entry e{static_cast<std::uint32_t>(s.kind), s.index, aligned(end), 0, 0};
    xxh64 hash;
    s.write([&](std::span<const std::byte> bytes) {
      hash.update(bytes);
      e.size += bytes.size();
    });
    e.hash = hash.digest();
    end = e.offset + e.size;
    directory.push_back(e);
  }
  header.file_bytes = end;
  header.hash = hash_of(header, std::as_bytes(std::span(directory)));
  sink(std::as_bytes(std::span(&header, 1)));
  sink(std::as_bytes(std::span(directory)));
  end = sizeof(header) + directory.size() * sizeof(directory_entry);
  constexpr std::array<std::byte, section_alignment> zeros{};
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const directory_entry& e = directory[i];
    sink(std::span(zeros).first(e.offset - end));
    sections[i].write(sink);
    end = e.offset + e.size;
  }
}

/// The sections of a file that is in memory.
class snapshot_sections {
 public:
  /// Reads header and directory and checks all but the checksums of the sections.
  /// @throws format_error.
  snapshot_sections(std::span<const std::byte> file, std::string_view name)
      : file_(file), name_(name) {
    byte_source s(file, name);
    snapshot_header header;
    const auto head = s.take(sizeof(header), "header");
    std::memcpy(&header, head.data(), sizeof(header));
    if (header.file_bytes != file.size()) {
      fail("a file of " + std::to_string(header.file_bytes) + " bytes, " +
           std::to_string(file.size()) + " are there");
    }
    directory_.resize(s.checked_count(header.n_sections, sizeof(directory_entry), "directory"));
    const auto listed = s.take(directory_.size() * sizeof(directory_entry), "directory");
    if (!listed.empty()) std::memcpy(directory_.data(), listed.data(), listed.size());
    if (header.hash != hash_of(header, listed)) fail_checksum("header");
    for (const std::uint64_t zero : header.zeros) {
      if (zero != 0) fail("a reserved field of the header is not 0");
    }
    std::size_t end = sizeof(header) + listed.size();
    const directory_entry* previous = nullptr;
    for (const directory_entry& e : directory_) {
      if (previous != nullptr && !precedes(*previous, e)) fail("sections out of order");
      if (e.offset != aligned(end) || e.offset > file.size() || e.size > file.size() - e.offset) {
        fail(named(e) + " of " + std::to_string(e.size) + " bytes at " + std::to_string(e.offset) +
             ", expected it at " + std::to_string(aligned(end)) + " of " +
             std::to_string(file.size()));
      }
      for (const std::byte gap : file.subspan(end, e.offset - end)) {
        if (gap != std::byte{0}) fail("a byte between sections is not 0");
      }
      if (e.kind < first_optional && !known(e.kind)) {
        fail(named(e) + " is unknown, and the file is of no use without it");
      }
      end = e.offset + e.size;
      previous = &e;
    }
    if (end != file.size()) fail("bytes behind the last section");
  }

  /// Compares the checksums of all sections. @throws format_error.
  void verify() const {
    for (const directory_entry& e : directory_) verified(e);
  }

  /// Bytes of a section, nothing if there is none; its checksum is compared unless this is left to
  /// verify(). @throws format_error.
  std::span<const std::byte> find(section_kind kind, std::uint32_t index, bool check = true) const {
    const directory_entry wanted{static_cast<std::uint32_t>(kind), index, 0, 0, 0};
    const auto e = std::lower_bound(directory_.begin(), directory_.end(), wanted, precedes);
    if (e == directory_.end() || precedes(wanted, *e)) return {};
    return check ? verified(*e) : bytes_of(*e);
  }

 private:
  static bool precedes(const directory_entry& a, const directory_entry& b) {
    return a.kind != b.kind ? a.kind < b.kind : a.index < b.index;
  }
  static bool known(std::uint32_t kind) {
    return (kind >= 1 && kind <= 4) || kind == 16 || kind == 17;
  }
  static std::string named(const directory_entry& e) {
    return "section " + std::to_string(e.kind) + "." + std::to_string(e.index);
  }
  std::span<const std::byte> bytes_of(const directory_entry& e) const {
    return file_.subspan(e.offset, e.size);
  }
  std::span<const std::byte> verified(const directory_entry& e) const {
    const auto bytes = bytes_of(e);
    if (hash_bytes(bytes) != e.hash) fail_checksum(named(e));
    return bytes;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw format_error(std::string(name_) + ": " + what);
  }
  [[noreturn]] void fail_checksum(const std::string& what) const {
    fail("checksum does not match: " + what + " is damaged");
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  std::vector<directory_entry> directory_;
};

}  // namespace detail

}  // namespace gistkv::cache
