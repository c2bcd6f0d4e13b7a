// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gistkv/io/file_error.hpp>
#include <gistkv/io/mapped_file.hpp>

namespace gistkv::io {

namespace detail {

/// A new file beside its final name; removed again unless it gets there.
class pending_file {
 public:
  explicit pending_file(const std::filesystem::path& target) : target_(target) {
    // Process and attempt number make the name free at the first try unless a crash left it behind.
    constexpr int attempts = 1000;
    for (int i = 0; i < attempts; ++i) {
      path_ = target;
      path_ += ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(i);
      number_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (number_ >= 0) return;
      if (errno != EEXIST) throw_errno(target, "create a file beside it");
    }
    errno = EEXIST;
    throw_errno(target, "create a file beside it");
  }
  pending_file(const pending_file&) = delete;
  pending_file& operator=(const pending_file&) = delete;
  ~pending_file() {
    if (number_ >= 0) ::close(number_);
    if (!published_) ::unlink(path_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::write(number_, bytes.data(), bytes.size());
      if (n < 0) {
        if (errno == EINTR) continue;
        throw_errno(target_, "write");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
  }

  void publish() {
    if (::fsync(number_) != 0) throw_errno(target_, "write to the disk");
    const int number = std::exchange(number_, -1);
    if (::close(number) != 0) throw_errno(target_, "close");
    if (::rename(path_.c_str(), target_.c_str()) != 0) throw_errno(target_, "replace");
    published_ = true;
    // The new name outlives a power cut only once the directory is on the disk too. Some file
    // systems refuse to sync a directory; the content is safe by then, so that is no failure.
    const auto parent = target_.has_parent_path() ? target_.parent_path() : ".";
    const descriptor directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() >= 0) ::fsync(directory.get());
  }

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
  int number_ = -1;
  bool published_ = false;
};

}  // namespace detail

/// Calls `write` with a sink, to which it gives the new content of `path` piece after piece.
/// Whoever opens `path` finds the old content or the new one, never a part: the bytes go to a file
/// beside it, to the disk, and then take the name. A symbolic link stays and its target is
/// replaced.
///
/// A process that is killed in between leaves PATH.partial-PID-N behind; `path` is then untouched.
/// @throws file_error, also if `path` exists and is no regular file; what `write` throws.
using file_sink = std::function<void(std::span<const std::byte>)>;
inline void write_file_atomically(const std::filesystem::path& path,
                                  const std::function<void(const file_sink&)>& write) {
  std::error_code failure;
  std::filesystem::path target = path;
  if (std::filesystem::is_symlink(std::filesystem::symlink_status(path, failure))) {
    target = std::filesystem::canonical(path, failure);
    if (failure) throw file_error(path, "follow the symbolic link", failure);
  }
  const auto status = std::filesystem::status(target, failure);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw file_error(path, "replace what is no regular file",
                     std::make_error_code(std::errc::invalid_argument));
  }
  detail::pending_file file(target);
  write([&file](std::span<const std::byte> piece) { file.write(piece); });
  file.publish();
}

/// The same with `pieces` one behind the other.
inline void write_file_atomically(const std::filesystem::path& path,
                                  std::span<const std::span<const std::byte>> pieces) {
  write_file_atomically(path, [pieces](const file_sink& sink) {
    for (const auto piece : pieces) sink(piece);
  });
}

inline void write_file_atomically(const std::filesystem::path& path,
                                  std::span<const std::byte> bytes) {
  write_file_atomically(path, std::span<const std::span<const std::byte>>(&bytes, 1));
}

inline void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace gistkv::io
