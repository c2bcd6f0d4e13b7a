// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <gistkv/core/types.hpp>

namespace gistkv::cli {

using json = nlohmann::ordered_json;

/// To stdout, from rank 0.
void print(std::string_view text);
/// The one document of a run with --json; bytes that are no UTF-8 become U+FFFD.
void print_json(const json& document);
/// Columns padded to the widest cell; the first row is the heading.
void print_table(const std::vector<std::vector<std::string>>& rows);

std::string hex(std::uint64_t number);          ///< 16 digits.
std::string decimal(double x, int digits);      ///< Fixed point.
std::string bytes_text(std::uint64_t n_bytes);  ///< "24.9 MB", powers of 1000.
json ratio(double over, double under);          ///< Null where there is nothing to divide by.
std::string ratio_text(const json& ratio);

/// The most memory that this process has ever had resident.
std::uint64_t peak_rss_bytes();

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point start_ = clock::now();
};

/// A bar on stderr with rate and time left: only on a terminal, and only for what takes more than
/// two seconds.
class progress {
 public:
  progress(std::string label, index_t total);
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  void operator()(index_t done);

 private:
  std::string label_;
  index_t total_;
  bool terminal_;
  bool shown_ = false;
  double last_ = 0;
  stopwatch watch_;
};

/// Signals that end the process wait while one of these lives, so that a file that is being written
/// is either not there or whole.
class signals_held {
 public:
  signals_held();
  ~signals_held();
  signals_held(const signals_held&) = delete;
  signals_held& operator=(const signals_held&) = delete;
};

/// A whole text file, or stdin for "-". @throws io::file_error.
std::string read_text(const std::string& path);

/// @throws io::file_error if no file can be made at `path`: better now than after minutes of work.
void require_writable(const std::string& path);

}  // namespace gistkv::cli
