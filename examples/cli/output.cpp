// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/output.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <set>
#include <system_error>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cli/errors.hpp>
#include <cli/ranks.hpp>
#include <gistkv/io/mapped_file.hpp>

namespace gistkv::cli {

std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    line += static_cast<unsigned char>(c) < 0x20 || c == '\x7f' ? ' ' : c;
  }
  return line;
}

void note(const std::string& text) {
  static std::set<std::string> said;
  if (ranks().rank() != 0 || !said.insert(text).second) return;
  std::fprintf(stderr, "gistkv: note: %s\n", one_line(text).c_str());
}

void print(std::string_view text) {
  if (ranks().rank() != 0) return;
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void print_json(const json& document) {
  print(document.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    print(line + "\n");
  }
}

std::string hex(std::uint64_t number) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(number));
  return text.data();
}

std::string decimal(double x, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, x);
  return text.data();
}

std::string bytes_text(std::uint64_t n_bytes) {
  if (n_bytes < 1000) return std::to_string(n_bytes) + " B";
  constexpr std::array<const char*, 4> units = {" kB", " MB", " GB", " TB"};
  double x = static_cast<double>(n_bytes) / 1000;
  std::size_t unit = 0;
  for (; x >= 999.95 && unit + 1 < units.size(); ++unit) x /= 1000;
  return decimal(x, 1) + units[unit];
}

json ratio(double over, double under) {
  if (under <= 0) return nullptr;
  return over / under;
}

std::string ratio_text(const json& ratio) {
  return ratio.is_null() ? "-" : decimal(ratio.get<double>(), 2);
}

std::uint64_t peak_rss_bytes() {
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;  // Linux counts in KiB.
}

progress::progress(std::string label, index_t total)
    : label_(std::move(label)),
      total_(total),
      terminal_(ranks().rank() == 0 && ::isatty(STDERR_FILENO) == 1) {}

progress::~progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void progress::operator()(index_t done) {
  const double now = watch_.seconds();
  if (!terminal_ || now < 2 || now - last_ < 0.2 || done <= 0) return;
  last_ = now;
  shown_ = true;
  constexpr index_t width = 30;
  const auto filled = static_cast<std::size_t>(width * done / std::max<index_t>(total_, 1));
  const double rate = static_cast<double>(done) / now;
  const double left = static_cast<double>(total_ - done) / rate;
  const std::string bar = std::string(filled, '#') + std::string(width - filled, '.');
  std::fprintf(stderr, "\r%s [%s] %lld/%lld tokens, %.0f/s, %.0f s left\033[K", label_.c_str(),
               bar.c_str(), static_cast<long long>(done), static_cast<long long>(total_), rate,
               left);
}

namespace {

constexpr std::array<int, 3> ending_signals = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t pending_signal = 0;
std::array<struct sigaction, ending_signals.size()> earlier_actions;

extern "C" void remember_signal(int number) { pending_signal = number; }

}  // namespace

// Actions belong to the process, a mask to one thread only: a backend's threads would still be hit.
signals_held::signals_held() {
  struct sigaction action = {};
  action.sa_handler = remember_signal;
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < ending_signals.size(); ++i) {
    ::sigaction(ending_signals[i], &action, &earlier_actions[i]);
  }
}

signals_held::~signals_held() {
  for (std::size_t i = 0; i < ending_signals.size(); ++i) {
    ::sigaction(ending_signals[i], &earlier_actions[i], nullptr);
  }
  const int number = pending_signal;
  pending_signal = 0;
  if (number != 0) ::raise(number);
}

std::string read_text(const std::string& path) {
  const bool from_stdin = path == "-";
  const io::detail::descriptor file(from_stdin ? ::dup(STDIN_FILENO)
                                               : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const std::string name = from_stdin ? "stdin" : path;
  if (file.get() < 0) io::detail::throw_errno(name, "open");
  std::string text;
  std::vector<char> block(1 << 16);
  while (true) {
    const ssize_t n = ::read(file.get(), block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io::detail::throw_errno(name, "read");
    if (n == 0) return text;
    text.append(block.data(), static_cast<std::size_t>(n));
  }
}

void require_writable(const std::string& path) {
  const std::filesystem::path target(path);
  std::error_code ignored;
  if (std::filesystem::is_directory(target, ignored)) {
    throw io::file_error(target, "write", std::make_error_code(std::errc::is_a_directory));
  }
  const auto folder = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  if (::access(folder.c_str(), W_OK | X_OK) != 0) io::detail::throw_errno(target, "write");
}

}  // namespace gistkv::cli
