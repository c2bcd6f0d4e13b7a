// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <sys/resource.h>
#include <sys/stat.h>

#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/mapped_file.hpp>

#include <io/gguf_builder.hpp>

namespace {

using namespace gistkv;
using io::mapped_file;

static_assert(!std::is_copy_constructible_v<mapped_file>);
static_assert(std::is_nothrow_move_constructible_v<mapped_file>);
static_assert(std::is_nothrow_move_assignable_v<mapped_file>);

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string text_of(const std::filesystem::path& path) {
  const mapped_file file(path);
  return std::string(text_of(file.bytes()));
}

std::size_t entries(const std::filesystem::path& directory) {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++n;
  return n;
}

TEST_CASE("a mapped file shows the file's bytes and survives moves") {
  test::scratch_directory scratch;
  test::write_text(scratch / "a", "first");
  test::write_text(scratch / "b", "second one");
  mapped_file a(scratch / "a");
  CHECK(text_of(a.bytes()) == "first");
  const auto* address = a.bytes().data();
  mapped_file moved = std::move(a);
  CHECK(moved.bytes().data() == address);
  CHECK(a.bytes().empty());  // NOLINT(bugprone-use-after-move): the moved-from state is specified.
  moved = mapped_file(scratch / "b");
  CHECK(text_of(moved.bytes()) == "second one");
}

TEST_CASE("an empty file maps to no bytes") {
  test::scratch_directory scratch;
  test::write_text(scratch / "empty", "");
  CHECK(mapped_file(scratch / "empty").bytes().empty());
}

TEST_CASE("what cannot be mapped is named with the system's reason") {
  test::scratch_directory scratch;
  try {
    mapped_file file(scratch / "absent");
    FAIL("opened");
  } catch (const io::file_error& e) {
    CHECK(e.path() == scratch / "absent");
    CHECK(e.code() == std::errc::no_such_file_or_directory);
    const std::string what = e.what();
    CHECK(what == (scratch / "absent").string() + ": cannot open: No such file or directory");
  }
  CHECK_THROWS_AS(mapped_file(scratch.path()), io::file_error);
  REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_AS(mapped_file(scratch / "pipe"), io::file_error);
}

TEST_CASE("a file is replaced as a whole") {
  test::scratch_directory scratch;
  const auto path = scratch / "out";
  io::write_file_atomically(path, "one");
  CHECK(text_of(path) == "one");
  const mapped_file old(path);
  const std::array pieces = {std::as_bytes(std::span(std::string_view("two, "))),
                             std::span<const std::byte>(),
                             std::as_bytes(std::span(std::string_view("in pieces")))};
  io::write_file_atomically(path, pieces);
  CHECK(text_of(path) == "two, in pieces");
  CHECK(text_of(old.bytes()) == "one");
  CHECK(entries(scratch.path()) == 1);
  io::write_file_atomically(path, std::string_view());
  CHECK(text_of(path).empty());
}

TEST_CASE("a failed write leaves the old content and nothing beside it") {
  test::scratch_directory scratch;
  CHECK_THROWS_AS(io::write_file_atomically(scratch / "absent" / "out", "x"), io::file_error);
  CHECK_THROWS_AS(io::write_file_atomically(scratch.path(), "x"), io::file_error);
  CHECK_THROWS_AS(io::write_file_atomically("/dev/null", "x"), io::file_error);
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK(entries(scratch.path()) == 0);

  // A name that is free but too long for the suffix fails before anything is written.
  const std::string longest(255, 'n');
  test::write_text(scratch / longest, "old");
  CHECK_THROWS_AS(io::write_file_atomically(scratch / longest, "new"), io::file_error);
  CHECK(text_of(scratch / longest) == "old");
  CHECK(entries(scratch.path()) == 1);
}

TEST_CASE("a write that fails half-way leaves the old content and nothing beside it") {
  test::scratch_directory scratch;
  const auto path = scratch / "out";
  io::write_file_atomically(path, "old");
  // The system refuses a file of more than 100 bytes, as a full disk would.
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {100, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::error_code code;
  try {
    io::write_file_atomically(path, std::string(1000, 'n'));
  } catch (const io::file_error& e) {
    code = e.code();
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(code == std::errc::file_too_large);
  CHECK(text_of(path) == "old");
  CHECK(entries(scratch.path()) == 1);
}

TEST_CASE("a symbolic link stays and its target is replaced") {
  test::scratch_directory scratch;
  test::write_text(scratch / "target", "old");
  std::filesystem::create_symlink("target", scratch / "link");
  io::write_file_atomically(scratch / "link", "new");
  CHECK(std::filesystem::is_symlink(scratch / "link"));
  CHECK(text_of(scratch / "target") == "new");
}

}  // namespace
