// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cli/arguments.hpp>
#include <cli/errors.hpp>
#include <cli/output.hpp>
#include <cli/verbs.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/file_error.hpp>
#include <gistkv/io/mapped_file.hpp>
#include <gistkv/io/strict_json.hpp>

namespace gistkv::cli {

namespace {

struct plot_options {
  std::vector<std::string> files;
  std::string output;
  std::string kind = "auto";
  std::string title;
};

/// What a file holds, whatever wrote it.
struct source {
  std::string path;
  std::string name;         ///< Without folder and ending: names a curve.
  nlohmann::json document;  ///< Null for a table.
  std::vector<std::map<std::string, double>> table;
};

/// A number that a table or a document may hold.
bool to_number(const std::string& text, double& value) {
  char* end = nullptr;
  value = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0';
}

std::vector<std::map<std::string, double>> read_csv(const std::string& text,
                                                    const std::string& path) {
  std::stringstream lines(text);
  std::string line;
  std::getline(lines, line);
  const std::vector<std::string> names = between_commas(line);
  std::vector<std::map<std::string, double>> table;
  for (int number = 2; std::getline(lines, line); ++number) {
    const std::vector<std::string> cells = between_commas(line);
    if (cells.size() != names.size()) {
      throw format_error(path + ":" + std::to_string(number) + ": has " +
                         std::to_string(cells.size()) + " cells, expected " +
                         std::to_string(names.size()));
    }
    auto& row = table.emplace_back();
    for (std::size_t i = 0; i < cells.size(); ++i) {
      double value = 0;
      if (to_number(cells[i], value)) row[names[i]] = value;
    }
  }
  return table;
}

std::map<std::string, double> numbers_of(const nlohmann::json& line) {
  std::map<std::string, double> row;
  for (const auto& [key, value] : line.items()) {
    if (value.is_number()) row[key] = value.get<double>();
  }
  return row;
}

source read_source(const std::string& path) {
  source s{path, std::filesystem::path(path).stem().string(), nullptr, {}};
  const std::string text = read_text(path);
  if (std::filesystem::path(path).extension() == ".csv") {
    s.table = read_csv(text, path);
    return s;
  }
  s.document = nlohmann::json::parse(text, nullptr, false);
  if (s.document.is_object() || s.document.is_array()) {
    if (s.document.is_array()) {
      for (const nlohmann::json& line : s.document) s.table.push_back(numbers_of(line));
    }
    return s;
  }
  std::stringstream lines(text);  // A log: a JSON object a line.
  s.document = nullptr;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const nlohmann::json parsed = nlohmann::json::parse(line, nullptr, false);
    if (!parsed.is_object()) {
      throw format_error(path + ":" + std::to_string(number) +
                         ": is no JSON, expected a result of gistkv, a log of a JSON object a "
                         "line, or a .csv table");
    }
    s.table.push_back(numbers_of(parsed));
  }
  return s;
}

/// The list in a field of a document; null if it has none.
const nlohmann::json* list_in(const source& s, const char* field) {
  if (!s.document.is_object()) return nullptr;
  const io::json_fields fields(s.document, s.path);
  const nlohmann::json* list = fields.find(field);
  if (list != nullptr && !list->is_array()) fields.fail(field, *list, "a list");
  return list;
}

/// Rows of eval with a metric, of all sources, which they borrow from.
std::vector<io::json_fields> rows_of(std::span<const source> sources, const std::string& metric) {
  std::vector<io::json_fields> found;
  for (const source& s : sources) {
    const nlohmann::json* rows = list_in(s, "rows");
    for (std::size_t i = 0; rows != nullptr && i < rows->size(); ++i) {
      const io::json_fields row((*rows)[i], s.path + ": row " + std::to_string(i + 1));
      if (row.find<std::string>("metric") == metric) found.push_back(row);
    }
  }
  return found;
}

std::string method_of(const io::json_fields& row) { return row.get<std::string>("method"); }
double value_of(const io::json_fields& row) { return row.get<double>("value"); }
double setting(const io::json_fields& row, const char* name) {
  const nlohmann::json* settings = row.find("settings");
  if (settings == nullptr) throw format_error(row.where() + ": field 'settings' is missing");
  return io::json_fields(*settings, row.where() + ": settings").get<double>(name);
}
std::array<double, 2> interval_of(const io::json_fields& row) {
  const nlohmann::json* ends = row.find("ci95");
  if (ends == nullptr || !ends->is_array() || ends->size() != 2 || !(*ends)[0].is_number() ||
      !(*ends)[1].is_number()) {
    throw format_error(row.where() + ": field 'ci95' is no list of two numbers");
  }
  return {(*ends)[0].get<double>(), (*ends)[1].get<double>()};
}

/// Rows held behind each token of what generate has written; empty if it is nothing of it.
std::vector<double> rows_held(const source& s) {
  const nlohmann::json* list = list_in(s, "kv_rows");
  std::vector<double> rows;
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    const nlohmann::json& n = (*list)[i];
    if (!n.is_number()) {
      throw format_error(s.path + ": field 'kv_rows' holds " + io::printable(n.dump(), 40) +
                         ", expected numbers");
    }
    rows.push_back(n.get<double>());
  }
  return rows;
}

std::string in_quotes(const std::string& text) {
  std::string q("'");
  for (const char c : text) q.append(c == '\'' ? 2 : 1, c);
  q += '\'';
  return q;
}

/// Hues of a middle lightness, which can be read on white and on black.
constexpr std::array<const char*, 7> colours = {"#2a7fd4", "#d9662b", "#2f9e59", "#c0509b",
                                                "#a8842c", "#7a6fd0", "#d14a4a"};
constexpr const char* ink = "#808080";

std::string preamble(const std::string& title, int height = 420) {
  std::string s =
      "set terminal svg size 760," + std::to_string(height) + " dynamic font 'sans-serif,13'\n";
  s += "set datafile separator ' '\n";
  s += std::string("set border 3 lc rgb '") + ink + "'\nset tics nomirror textcolor rgb '" + ink +
       "'\nset key textcolor rgb '" + ink + "' outside right top noenhanced\nset grid lc rgb '" +
       ink + "' lw 0.3\n";
  for (const char* label : {"xlabel", "ylabel", "title", "cblabel"}) {
    s += std::string("set ") + label + " textcolor rgb '" + ink + "'\n";
  }
  if (!title.empty()) s += "set title " + in_quotes(title) + " noenhanced\n";
  return s;
}

std::string block_name(std::size_t i) {
  std::string name("d");
  name += std::to_string(i);
  return name;
}
std::string reference(const std::string& name) {
  std::string use("$");
  use += name;
  return use;
}

/// A gnuplot data block.
std::string block(const std::string& name, const std::vector<std::vector<double>>& rows) {
  std::string s = "$" + name + " << EOD\n";
  char number[40];
  for (const auto& row : rows) {
    for (const double x : row) {
      std::snprintf(number, sizeof number, "%.9g ", x);
      s += number;
    }
    s += "\n";
  }
  return s + "EOD\n";
}

std::string curve(std::size_t i, const std::string& with) {
  return " with " + with + " lc rgb '" + colours[i % colours.size()] + "'";
}

/// Perplexity against bytes: a curve a method, through its points of all files.
std::string bytes_script(std::span<const source> sources, const std::string& title) {
  std::map<std::string, std::vector<std::vector<double>>> curves;
  std::vector<std::string> order;
  for (const source& s : sources) {
    const auto bytes = rows_of(std::span(&s, 1), "kv_bytes_mean");
    for (const io::json_fields& row : rows_of(std::span(&s, 1), "ppl_regular")) {
      for (const io::json_fields& b : bytes) {
        const std::string method = method_of(row);
        if (method_of(b) != method) continue;
        if (!curves.contains(method)) order.push_back(method);
        const auto [low, high] = interval_of(row);
        curves[method].push_back({value_of(b) / 1e6, value_of(row), low, high});
      }
    }
  }
  std::string s = preamble(title.empty() ? "Perplexity of regular tokens, 95 % intervals" : title);
  s += "set xlabel 'MB of keys and values, mean'\nset ylabel 'perplexity'\nset logscale xy\n";
  std::string plots;
  for (std::size_t i = 0; i < order.size(); ++i) {
    auto& points = curves[order[i]];
    std::sort(points.begin(), points.end());
    const std::string name = block_name(i);
    s += block(name, points);
    plots += (i == 0 ? "plot " : ", ") + reference(name) + " using 1:2:3:4 title " +
             in_quotes(order[i]) + curve(i, "yerrorlines") + " pt 7 ps 0.6 lw 1.5";
  }
  return s + plots + "\n";
}

std::string position_script(std::span<const source> sources, const std::string& title) {
  std::map<std::string, std::vector<std::vector<double>>> curves;
  std::vector<std::string> order;
  for (const io::json_fields& row : rows_of(sources, "ppl_by_position")) {
    const std::string method = method_of(row);
    if (!curves.contains(method)) order.push_back(method);
    curves[method].push_back(
        {(setting(row, "position_begin") + setting(row, "position_end")) / 2, value_of(row)});
  }
  std::string s = preamble(title.empty() ? "Perplexity by position" : title);
  s += "set xlabel 'position in the text, tokens'\nset ylabel 'perplexity'\nset logscale y\n";
  std::string plots;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::string name = block_name(i);
    s += block(name, curves[order[i]]);
    plots += (i == 0 ? "plot " : ", ") + reference(name) + " using 1:2 title " +
             in_quotes(order[i]) + curve(i, "linespoints") + " pt 7 ps 0.6 lw 1.5";
  }
  return s + plots + "\n";
}

/// Recall by length and depth, a panel a method.
std::string needle_script(std::span<const source> sources, const std::string& title) {
  std::map<std::string, std::map<std::pair<double, double>, double>> panels;
  std::set<double> lengths;
  std::set<double> depths;
  std::vector<std::string> order;
  for (const io::json_fields& row : rows_of(sources, "needle_accuracy_at_depth")) {
    const std::string method = method_of(row);
    if (!panels.contains(method)) order.push_back(method);
    const double length = setting(row, "length");
    const double depth = setting(row, "depth");
    lengths.insert(length);
    depths.insert(depth);
    panels[method][{length, depth}] = value_of(row);
  }
  std::string s = preamble("", 120 + 130 * static_cast<int>((order.size() + 2) / 3));
  s += "set multiplot layout " + std::to_string((order.size() + 2) / 3) + ",3 title " +
       in_quotes(title.empty() ? "Recall by length (tokens) and depth" : title) +
       " textcolor rgb '" + ink + "'\nset cbrange [0:1]\nunset colorbox\nunset key\nunset grid\n" +
       "set palette defined (0 '#d14a4a', 0.5 '#a8842c', 1 '#2f9e59')\n" +
       "set xrange [-0.5:" + std::to_string(lengths.size()) +
       "-0.5]\nset yrange [-0.5:" + std::to_string(depths.size()) + "-0.5]\n";
  std::string x_tics;
  std::string y_tics;
  int at = 0;
  for (const double length : lengths) {
    x_tics += (at == 0 ? "" : ", ") + in_quotes(std::to_string(static_cast<int>(length))) + " " +
              std::to_string(at);
    ++at;
  }
  at = 0;
  for (const double depth : depths) {
    y_tics += (at == 0 ? "" : ", ") + in_quotes(decimal(depth, 2)) + " " + std::to_string(at);
    ++at;
  }
  s += "set xtics (" + x_tics + ")\nset ytics (" + y_tics + ")\n";
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::vector<std::vector<double>> cells;
    for (const auto& [key, value] : panels[order[i]]) {
      cells.push_back({static_cast<double>(std::distance(lengths.begin(), lengths.find(key.first))),
                       static_cast<double>(std::distance(depths.begin(), depths.find(key.second))),
                       value});
    }
    const std::string name = block_name(i);
    s += block(name, cells) + "set title " + in_quotes(order[i]) + " noenhanced\nplot $" + name +
         " using 1:2:3 with image, " + reference(name) +
         " using 1:2:(sprintf('%.2f', $3)) with labels textcolor rgb 'white' font ',11'\n";
  }
  return s + "unset multiplot\n";
}

/// Rows held while a text is generated.
std::string rows_script(std::span<const source> sources, const std::string& title) {
  std::string s = preamble(title.empty() ? "Rows held while writing" : title);
  s += "set xlabel 'tokens written'\nset ylabel 'rows of the cache'\nset yrange [0:*]\n";
  std::string plots;
  std::size_t i = 0;
  std::vector<std::vector<double>> full;
  for (const source& f : sources) {
    std::vector<std::vector<double>> points;
    for (const double rows : rows_held(f)) {
      points.push_back({static_cast<double>(points.size()), rows});
    }
    if (points.empty()) continue;
    if (points.size() > full.size()) {
      full.clear();
      for (const auto& p : points) full.push_back({p[0], points[0][1] + p[0]});
    }
    const std::string name = block_name(i);
    s += block(name, points);
    plots += (plots.empty() ? "plot " : ", ") + reference(name) + " using 1:2 title " +
             in_quotes(
                 io::json_fields(f.document, f.path).find<std::string>("method").value_or(f.name)) +
             curve(i, "lines") + " lw 1.5";
    ++i;
  }
  s += block("full", full);
  return s + plots + ", $full using 1:2 title 'all rows' with lines dt 2 lc rgb '" + ink + "'\n";
}

/// Seconds to read and to write, stacked.
std::string time_script(std::span<const source> sources, const std::string& title) {
  std::string s = preamble(title.empty() ? "Seconds to read a text and to write behind it" : title);
  std::vector<std::vector<double>> bars;
  std::string tics;
  for (const io::json_fields& row : rows_of(sources, "seconds_first_token")) {
    for (const io::json_fields& end : rows_of(sources, "seconds_end_to_end")) {
      const double length = setting(row, "length");
      if (method_of(end) != method_of(row) || setting(end, "length") != length) continue;
      const auto x = static_cast<double>(bars.size());
      tics += (bars.empty() ? "" : ", ") + in_quotes(method_of(row) + " " + decimal(length, 0)) +
              " " + std::to_string(bars.size());
      bars.push_back({x, value_of(row), value_of(end)});
    }
  }
  s += block("d", bars) + "set style fill solid 0.9\nset boxwidth 0.6\nset yrange [0:*]\n" +
       "set xrange [-0.6:" + std::to_string(bars.size()) + "-0.4]\nset xtics (" + tics +
       ") rotate by -30 noenhanced\nset ylabel 'seconds'\nplot $d using 1:3 title 'writing'" +
       curve(1, "boxes") + ", $d using 1:2 title 'to the first token'" + curve(0, "boxes") + "\n";
  return s;
}

/// Every column of the logs that is a loss, over steps.
std::string training_script(std::span<const source> sources, const std::string& title) {
  std::string s = preamble(title.empty() ? "Training" : title);
  s += "set xlabel 'step'\nset ylabel 'loss'\n";
  std::string plots;
  std::size_t i = 0;
  for (const source& f : sources) {
    std::set<std::string> losses;
    for (const auto& row : f.table) {
      for (const auto& [key, value] : row) {
        if (key.find("loss") != std::string::npos) losses.insert(key);
      }
    }
    for (const std::string& loss : losses) {
      std::vector<std::vector<double>> points;
      double n = 0;
      for (const auto& row : f.table) {
        const auto step = row.find("step");
        const auto value = row.find(loss);
        n += 1;
        if (value != row.end())
          points.push_back({step != row.end() ? step->second : n, value->second});
      }
      const std::string name = block_name(i);
      s += block(name, points);
      plots += (plots.empty() ? "plot " : ", ") + reference(name) + " using 1:2 title " +
               in_quotes(f.name + " " + loss) + curve(i, "lines") + " lw 1.5";
      ++i;
    }
  }
  return s + plots + "\n";
}

bool any_table_with_loss(std::span<const source> sources) {
  for (const source& s : sources) {
    for (const auto& row : s.table) {
      for (const auto& [key, value] : row) {
        if (key.find("loss") != std::string::npos) return true;
      }
    }
  }
  return false;
}

/// A kind of picture: whether the files have what it needs, and its script.
struct picture {
  const char* kind;
  const char* needs;
  bool (*fits)(std::span<const source>);
  std::string (*script)(std::span<const source>, const std::string& title);
};

constexpr picture pictures[] = {
    {"position", "eval ppl --positions N --json",
     [](std::span<const source> s) { return !rows_of(s, "ppl_by_position").empty(); },
     position_script},
    {"bytes", "eval ppl --json",
     [](std::span<const source> s) {
       return !rows_of(s, "ppl_regular").empty() && !rows_of(s, "kv_bytes_mean").empty();
     },
     bytes_script},
    {"needle", "eval needle --json",
     [](std::span<const source> s) { return !rows_of(s, "needle_accuracy_at_depth").empty(); },
     needle_script},
    {"time", "eval speed --json",
     [](std::span<const source> s) {
       return !rows_of(s, "seconds_first_token").empty() &&
              !rows_of(s, "seconds_end_to_end").empty();
     },
     time_script},
    {"rows", "generate --json",
     [](std::span<const source> s) {
       return std::any_of(s.begin(), s.end(),
                          [](const source& f) { return !rows_held(f).empty(); });
     },
     rows_script},
    {"training", "the log of a training run (CSV, or JSON lines)", any_table_with_loss,
     training_script},
};

/// Runs gnuplot on a script; returns the SVG.
std::string drawn(const std::string& script) {
  std::string path = (std::filesystem::temp_directory_path() / "gistkv-plot-XXXXXX").string();
  const int file = ::mkstemp(path.data());
  if (file < 0)
    throw io::file_error(path, "create", std::error_code(errno, std::generic_category()));
  ::close(file);
  struct remover {
    const std::string& path;
    ~remover() { ::unlink(path.c_str()); }
  } const removed{path};
  io::write_file_atomically(path, script);
  // Without a shell, which would take a path apart at its spaces and quotes.
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) io::detail::throw_errno("gnuplot", "make a pipe to");
  const io::detail::descriptor from(ends[0]);
  std::optional<io::detail::descriptor> to(std::in_place, ends[1]);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_adddup2(&files, to->get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::string program = "gnuplot";
  const std::array<char*, 3> arguments = {program.data(), path.data(), nullptr};
  pid_t child = 0;
  const int failure =
      ::posix_spawnp(&child, program.c_str(), &files, nullptr, arguments.data(), ::environ);
  ::posix_spawn_file_actions_destroy(&files);
  to.reset();
  if (failure == ENOENT) throw backend_error("gnuplot: is not installed (Debian: gnuplot-nox)");
  if (failure != 0) throw backend_error("gnuplot: cannot be started");
  std::string svg;
  std::array<char, 4096> piece{};
  for (;;) {
    const ssize_t n = ::read(from.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    svg.append(piece.data(), static_cast<std::size_t>(n));
  }
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0 || svg.find("</svg>") == std::string::npos) {
    throw backend_error("gnuplot: could not draw the picture");
  }
  return svg;
}

void plot(const plot_options& o) {
  std::string kinds;
  for (const picture& p : pictures) kinds += (kinds.empty() ? "" : ", ") + std::string(p.kind);
  if (o.output.empty()) throw usage_error("-o is missing, want the SVG file to write");
  const bool automatic = o.kind == "auto";
  if (!automatic && std::none_of(std::begin(pictures), std::end(pictures),
                                 [&o](const picture& p) { return o.kind == p.kind; })) {
    throw usage_error("--kind is '" + o.kind + "', want auto, " + kinds);
  }
  require_writable(o.output);
  std::vector<source> sources;
  for (const std::string& file : o.files) sources.push_back(read_source(file));
  for (const picture& p : pictures) {
    if (!automatic && o.kind != p.kind) continue;
    if (p.fits(sources)) {
      return io::write_file_atomically(o.output, drawn(p.script(sources, o.title)));
    }
    if (!automatic) {
      throw format_error(o.files.front() + ": has nothing for --kind " + o.kind + ", want what " +
                         p.needs + " writes");
    }
  }
  throw format_error(o.files.front() +
                     ": has nothing to draw, want results of eval --json or generate --json, or "
                     "the log of a training run");
}

}  // namespace

void add_plot(CLI::App& app) {
  auto o = std::make_shared<plot_options>();
  CLI::App& verb = add_verb(app, "plot", "Draw results of eval, generate and training as SVG");
  add_required(verb, "FILE", o->files, "Results: JSON of eval or generate, logs of training");
  add_option(verb, "-o,--output", o->output, "The picture to write", "FILE.svg");
  add_option(verb, "--kind", o->kind,
             "bytes, position, needle, time, rows or training (default: what the files have)",
             "KIND");
  add_option(verb, "--title", o->title, "Title of the picture", "TEXT");
  add_example(verb, "gistkv plot ppl.json -o ppl.svg");
  on_run(verb, [o] { plot(*o); });
}

}  // namespace gistkv::cli
