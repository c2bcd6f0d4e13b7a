// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gistkv/io/file_error.hpp>

namespace gistkv::io {

namespace detail {

/// Closes a POSIX file descriptor when it goes out of scope.
class descriptor {
 public:
  explicit descriptor(int number) : number_(number) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

[[noreturn]] inline void throw_errno(const std::filesystem::path& path, const char* operation) {
  const int number = errno;
  throw file_error(path, operation, std::error_code(number, std::generic_category()));
}

}  // namespace detail

/// The bytes of a regular file, mapped read-only; pages are read on first use. An empty file maps
/// to an empty span. The address of the bytes survives a move of the object.
///
/// As with every mapping, a file that another process cuts short while it is mapped makes the
/// access behind its new end fatal (SIGBUS). Replace model files by rename, never in place.
class mapped_file {
 public:
  /// @throws file_error if the file is missing, unreadable or not a regular file.
  explicit mapped_file(const std::filesystem::path& path) {
    // Without O_NONBLOCK the open of a pipe would wait for a writer; regular files ignore it.
    const detail::descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.get() < 0) detail::throw_errno(path, "open");
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0) detail::throw_errno(path, "stat");
    if (S_ISDIR(status.st_mode)) {
      throw file_error(path, "map", std::make_error_code(std::errc::is_a_directory));
    }
    if (!S_ISREG(status.st_mode)) {
      throw file_error(path, "map a file that is not a regular one",
                       std::make_error_code(std::errc::invalid_argument));
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;  // mmap refuses a length of 0.
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (address == MAP_FAILED) detail::throw_errno(path, "map");
    address_ = address;
  }

  mapped_file(mapped_file&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  ~mapped_file() {
    if (address_ != nullptr) ::munmap(address_, size_);
  }

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(address_), size_};
  }

 private:
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gistkv::io
