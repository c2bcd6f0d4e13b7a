// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// Snapshots as files: every damage is seen, what was saved goes on to the bit, old files are read,
// and two processes read one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include <gistkv/cache/snapshot.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/mapped_file.hpp>

#include "support/memory_backend.hpp"

namespace gistkv {
namespace {

using test::memory_backend;

std::vector<std::uint8_t> flags(index_t n_sentences, index_t n_gist) {
  std::vector<std::uint8_t> all(2, 0);
  for (index_t s = 0; s < n_sentences; ++s) {
    all.insert(all.end(), static_cast<std::size_t>(2 + s % 3), 0);
    all.insert(all.end(), static_cast<std::size_t>(n_gist), 1);
  }
  all.push_back(0);
  return all;
}

template <class T>
cache::gist_cache<memory_backend, T> random_cache(memory_backend& be, cache::cache_shape shape,
                                                  index_t n_sentences) {
  random_generator random(4);
  cache::gist_cache<memory_backend, T> c(be, shape, {{2, 1, 1, 0}});
  test::append_random(c, flags(n_sentences, 2), random);
  return c;
}

/// What later rows can read, as bytes.
template <class T>
std::vector<std::byte> content(const cache::gist_cache<memory_backend, T>& c) {
  std::vector<std::byte> all;
  const auto put = [&](const auto& x) {
    for (index_t h = 0; h < x.extent(0); ++h) {
      for (index_t r = 0; r < x.extent(1); ++r) {
        const auto* row = reinterpret_cast<const std::byte*>(x.at(h).data() + r * x.stride(1));
        const auto width = sizeof(T) * static_cast<std::size_t>(row_width<T>(x.extent(2)));
        all.insert(all.end(), row, row + width);
      }
    }
  };
  for (index_t l = 0; l < c.shape().n_layers; ++l) {
    const index_t n = c.n_shared();
    for (const auto& rows : {c.anchor_rows(l, 0, n > 0 ? n : c.n_anchors()), c.local_rows(l)}) {
      put(rows.k);
      put(rows.v);
    }
    if (n == 0) continue;
    put(c.anchor_rows(l, n, c.n_anchors() - n).k);
    put(c.anchor_rows(l, n, c.n_anchors() - n).v);
  }
  return all;
}

TEST_CASE_TEMPLATE("every cut, every flipped bit and every byte too many is an error", T, float,
                   q8) {
  memory_backend be;
  const auto c = random_cache<T>(be, {2, 1, 3}, 3);
  const auto whole = cache::save_snapshot(c, {1, 2, 3, {{"about", "ferry"}}}, {1, {0.5F, -2.0F}});
  REQUIRE(whole.size() > 600);
  REQUIRE(whole.size() < 4000);
  const auto loads = [&](std::span<const std::byte> bytes) {
    try {
      cache::load_snapshot<T>(be, bytes, "file");
      return true;
    } catch (const format_error&) {
      return false;
    }
  };
  CHECK(loads(whole));
  std::size_t n_accepted = 0;
  auto bytes = whole;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    n_accepted += loads(std::span(whole).first(i)) ? 1U : 0U;
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] = whole[i] ^ (std::byte{1} << bit);
      n_accepted += loads(bytes) ? 1U : 0U;
    }
    bytes[i] = whole[i] ^ std::byte{0xff};
    n_accepted += loads(bytes) ? 1U : 0U;
    bytes[i] = whole[i];
  }
  bytes.push_back(std::byte{0});
  CHECK_FALSE(loads(bytes));
  CHECK(n_accepted == 0);
}

TEST_CASE_TEMPLATE("rows are saved as they lie", T, float, double, bf16, f16, q8) {
  memory_backend be;
  auto c = random_cache<T>(be, {2, 2, 6}, 5);
  const auto bytes = cache::save_snapshot(c, {1, 2, 3, {{"rule", "paper"}, {"empty", ""}}});
  const auto loaded = cache::load_snapshot<T>(be, bytes, "test");
  CHECK(loaded.info.model == 1);
  CHECK(loaded.info.tokenizer == 2);
  CHECK(loaded.info.adapter == 3);
  REQUIRE(loaded.info.find("rule") != nullptr);
  CHECK(*loaded.info.find("rule") == "paper");
  CHECK(loaded.info.find("none") == nullptr);
  CHECK(loaded.cache.options().rule == c.options().rule);
  CHECK(loaded.cache.ledger().rows() == c.ledger().rows());
  CHECK(content(loaded.cache) == content(c));
  // What is read again is written again, byte for byte; also behind a fork.
  CHECK(cache::save_snapshot(loaded.cache, loaded.info) == bytes);
  CHECK(cache::save_snapshot(c.fork(), loaded.info) == bytes);
  // A sink gets the same bytes, in pieces.
  std::vector<std::byte> pieces;
  cache::write_snapshot(c, loaded.info, {}, [&](std::span<const std::byte> more) {
    pieces.insert(pieces.end(), more.begin(), more.end());
  });
  CHECK(pieces == bytes);
  // The head alone can be read without the rows.
  auto damaged = bytes;
  damaged.back() ^= std::byte{1};
  const auto head = cache::read_snapshot(damaged, "test", false);
  CHECK(head.type == cache::stored_type_of<T>());
  CHECK(head.books.rows() == c.ledger().rows());
  CHECK_THROWS_AS(cache::read_snapshot(damaged, "test"), format_error);
}

TEST_CASE("rows become those of another type as if they had been written so") {
  memory_backend be;
  const auto wide = random_cache<float>(be, {1, 2, 5}, 4);
  const auto bytes = cache::save_snapshot(wide, {});
  const auto compare = [&]<class T>(T) {
    const auto narrow = random_cache<T>(be, {1, 2, 5}, 4);
    CHECK(content(cache::load_snapshot<T>(be, bytes, "test").cache) == content(narrow));
    const auto back = cache::load_snapshot<float>(be, cache::save_snapshot(narrow, {}), "test");
    const auto again = cache::save_snapshot(back.cache, {});
    CHECK(content(cache::load_snapshot<T>(be, again, "test").cache) == content(narrow));
  };
  compare(bf16{});
  compare(f16{});
  compare(q8{});
  compare(double{});
}

/// A file as version 2 wrote it: rows 0 to 3 are sink, regular, gist, regular; element j of key
/// (or value: 5 more) of row i in layer l is 100 l + 10 i + j + 1/4.
constexpr std::string_view version_2 =
    "474b56434143484502000000000000003e01000000000000442e647159fb3f8d0100000000000000"
    "020000000000000003000000000000000100000000000000050000000000000061626f7574050000"
    "00000000006665727279010000000000000002000000000000000000003f000000c0020000000000"
    "00000100000000000000020000000000000001000000000000000000000000000000010000000000"
    "00000000000000000000000000000000000000040000000000000000000000020000000200000000"
    "00000000000000000000000001000000000200000001000000000000000201000000030000000100"
    "00000000000002000000020000000000803e0000a03f0000a2410000aa410000f2410000fa410000"
    "a8400000c8400000ca410000d24100000d42000011420080c8420080ca420080f0420080f2420040"
    "0243004003430080d2420080d4420080fa420080fc420040074300400843";

std::vector<std::byte> from_hex(std::string_view digits) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    bytes.push_back(
        static_cast<std::byte>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

TEST_CASE("files of version 2 are read, and every damage of them is seen") {
  memory_backend be;
  auto bytes = from_hex(version_2);
  const auto loaded = cache::load_snapshot<float>(be, bytes, "old");
  CHECK(loaded.info.adapter == 3);
  CHECK(*loaded.info.find("about") == "ferry");
  CHECK(loaded.soft.rows == std::vector<float>{0.5F, -2.0F});
  const auto& c = loaded.cache;
  REQUIRE(c.n_anchors() == 2);
  REQUIRE(c.n_local() == 1);
  CHECK(c.next_position() == 4);
  for (index_t l = 0; l < 2; ++l) {
    for (index_t j = 0; j < 2; ++j) {
      const float base = 100.0F * static_cast<float>(l) + static_cast<float>(j) + 0.25F;
      CHECK(c.anchor_rows(l, 0, 2).k(0, 0, j) == base);
      CHECK(c.anchor_rows(l, 0, 2).k(0, 1, j) == base + 20.0F);
      CHECK(c.anchor_rows(l, 0, 2).v(0, 1, j) == base + 25.0F);
      CHECK(c.local_rows(l).k(0, 0, j) == base + 30.0F);
      CHECK(c.local_rows(l).v(0, 0, j) == base + 35.0F);
    }
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    CHECK_THROWS_AS(cache::load_snapshot<float>(be, std::span(bytes).first(i), "cut"),
                    format_error);
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= std::byte{1} << bit;
      CHECK_THROWS_AS(cache::load_snapshot<float>(be, bytes, "flipped"), format_error);
      bytes[i] ^= std::byte{1} << bit;
    }
  }
}

/// Puts another section behind those of a file and says whether a reader takes it.
std::vector<std::byte> with_section(std::span<const std::byte> file, std::uint32_t kind) {
  using namespace cache::detail;
  const snapshot_sections sections(file, "file");
  std::vector<section_source> all;
  for (const auto k : {section_kind::description, section_kind::books, section_kind::entries,
                       section_kind::anchors, section_kind::local_rows}) {
    const auto bytes = sections.find(k, 0);
    all.push_back({k, 0, [bytes](const cache::byte_sink& to) { to(bytes); }});
  }
  static constexpr std::byte unknown[5] = {};
  all.push_back({static_cast<section_kind>(kind), 0,
                 [](const cache::byte_sink& to) { to(std::span(unknown)); }});
  std::vector<std::byte> bytes;
  write_sections(all, [&](std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  });
  return bytes;
}

TEST_CASE("unknown sections are passed over if they are optional, else refused") {
  memory_backend be;
  const auto c = random_cache<float>(be, {1, 1, 4}, 2);
  const auto bytes = cache::save_snapshot(c, {});
  const auto more = with_section(bytes, cache::detail::first_optional + 7);
  CHECK(more.size() > bytes.size());
  CHECK(content(cache::load_snapshot<float>(be, more, "more").cache) == content(c));
  auto damaged = more;
  damaged.back() ^= std::byte{1};
  CHECK_THROWS_AS(cache::load_snapshot<float>(be, damaged, "damaged"), format_error);
  CHECK_THROWS_WITH_AS(cache::load_snapshot<float>(be, with_section(bytes, 99), "new"),
                       "new: section 99.0 is unknown, and the file is of no use without it",
                       format_error);
  auto later = bytes;
  later[8] = std::byte{4};
  CHECK_THROWS_WITH_AS(cache::load_snapshot<float>(be, later, "later"),
                       "later: version 4, expected 1 to 3", format_error);
}

struct temporary_file {
  std::filesystem::path path;
  explicit temporary_file(const char* name)
      : path(std::filesystem::temp_directory_path() /
             (std::string(name) + std::to_string(::getpid()))) {}
  ~temporary_file() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

TEST_CASE_TEMPLATE("two processes read one mapped file and find the same", T, float, bf16, q8) {
  memory_backend be;
  const auto c = random_cache<T>(be, {3, 2, 8}, 40);
  const temporary_file file("gistkv-snapshot-");
  io::write_file_atomically(file.path, std::span<const std::byte>(cache::save_snapshot(c, {})));
  const auto open = [&] {
    auto mapped = std::make_shared<const io::mapped_file>(file.path);
    return cache::load_snapshot<T>(be, mapped->bytes(), "mapped", mapped);
  };
  auto loaded = open();
  CHECK(loaded.cache.n_shared() == c.n_anchors());
  CHECK(loaded.cache.bytes_shared() + c.bytes_per_row() * static_cast<std::size_t>(c.n_local()) ==
        c.bytes_held());
  // Nothing but the local rows was copied.
  CHECK(loaded.cache.bytes_allocated() ==
        c.bytes_per_row() * static_cast<std::size_t>(c.n_local()));
  CHECK(content(loaded.cache) == content(c));
  const auto go_on = [&](cache::gist_cache<memory_backend, T> from) {
    random_generator random(9);
    test::append_random(from, flags(3, 2), random);
    return hash_bytes(cache::save_snapshot(from, {}));
  };
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  const std::uint64_t want = go_on(c.copy());
  if (child == 0) ::_exit(go_on(open().cache) == want ? 0 : 1);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  // The file may be replaced, and its mapping closed by all others, while a cache reads on.
  std::filesystem::remove(file.path);
  CHECK(go_on(std::move(loaded.cache)) == want);
}

}  // namespace
}  // namespace gistkv
