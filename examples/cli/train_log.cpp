// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <cli/train_log.hpp>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include <nlohmann/json.hpp>

#include <cli/output.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/file_error.hpp>

namespace gistkv::cli {

namespace {

constexpr const char* csv_heading =
    "stage,step,tokens,loss,validation,gradient_norm,rate,tokens_per_second,seconds\n";

void append(const std::filesystem::path& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "ab");
  bool good = file != nullptr;
  good = good && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const int number = errno;
  if (file != nullptr) good = std::fclose(file) == 0 && good;
  if (!good)
    throw io::file_error(path, "append to", std::error_code(number, std::generic_category()));
}

/// The lines of a log up to a step; `step_of` reads stage and step of a line.
template <class F>
std::string kept_lines(const std::filesystem::path& path, index_t stage, index_t step,
                       F&& step_of) {
  std::string kept;
  if (!std::filesystem::exists(path)) return kept;
  const std::string all = read_text(path.string());
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find('\n', begin), all.size());
    const std::string line = all.substr(begin, end - begin);
    begin = end + 1;
    index_t of_stage = 0;
    index_t of_step = 0;
    if (!step_of(line, of_stage, of_step)) continue;
    if (of_stage < stage || (of_stage == stage && of_step <= step)) {
      kept.append(line).push_back('\n');
    }
  }
  return kept;
}

}  // namespace

train_log::train_log(const std::filesystem::path& folder, bool go_on, index_t stage, index_t step)
    : csv_(folder / "log.csv"), lines_(folder / "log.jsonl") {
  std::string csv = csv_heading;
  std::string lines;
  if (go_on) {
    csv += kept_lines(csv_, stage, step, [](const std::string& line, index_t& s, index_t& n) {
      long long a = 0;
      long long b = 0;
      if (std::sscanf(line.c_str(), "%lld,%lld,", &a, &b) != 2) return false;
      s = a;
      n = b;
      return true;
    });
    lines = kept_lines(lines_, stage, step, [](const std::string& line, index_t& s, index_t& n) {
      const auto parsed = nlohmann::json::parse(line, nullptr, false);
      if (!parsed.is_object() || !parsed.contains("stage") || !parsed.contains("step"))
        return false;
      s = parsed["stage"].get<index_t>();
      n = parsed["step"].get<index_t>();
      return true;
    });
  }
  io::write_file_atomically(csv_, csv);
  io::write_file_atomically(lines_, lines);
}

void train_log::add(const train_record& r) {
  json line;
  line["stage"] = r.stage;
  line["step"] = r.step;
  line["tokens"] = r.tokens;
  line["loss"] = r.loss;
  if (r.validation >= 0) line["validation"] = r.validation;
  line["gradient_norm"] = r.gradient_norm;
  line["rate"] = r.rate;
  line["tokens_per_second"] = r.tokens_per_second;
  line["seconds"] = r.seconds;
  const auto number = [&line](const char* key) {
    return line.contains(key) ? line[key].dump() : std::string();
  };
  std::string row;
  for (const char* key : {"stage", "step", "tokens", "loss", "validation", "gradient_norm", "rate",
                          "tokens_per_second", "seconds"}) {
    if (!row.empty()) row.push_back(',');
    row.append(number(key));
  }
  append(csv_, row + "\n");
  append(lines_, line.dump() + "\n");
}

}  // namespace gistkv::cli
