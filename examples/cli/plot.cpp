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
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <cli/arguments.hpp>
#include <cli/errors.hpp>
#include <cli/output.hpp>
#include <cli/verbs.hpp>
#include <gistkv/core/error.hpp>
#include <gistkv/io/atomic_file.hpp>
#include <gistkv/io/file_error.hpp>

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
  std::string name;  ///< Without folder and ending: names a curve.
  json document;     ///< Null for a table.
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

std::map<std::string, double> numbers_of(const json& line) {
  std::map<std::string, double> row;
  for (const auto& [key, value] : line.items()) {
    if (value.is_number()) row[key] = value.get<double>();
  }
  return row;
}

source read_source(const std::string& path) {
  source s{std::filesystem::path(path).stem().string(), nullptr, {}};
  const std::string text = read_text(path);
  if (std::filesystem::path(path).extension() == ".csv") {
    s.table = read_csv(text, path);
    return s;
  }
  s.document = json::parse(text, nullptr, false);
  if (s.document.is_object() || s.document.is_array()) {
    if (s.document.is_array()) {
      for (const json& line : s.document) s.table.push_back(numbers_of(line));
    }
    return s;
  }
  std::stringstream lines(text);  // A log: a JSON object a line.
  s.document = nullptr;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object()) {
      throw format_error(path + ":" + std::to_string(number) +
                         ": is no JSON, expected a result of gistkv, a log of a JSON object a "
                         "line, or a .csv table");
    }
    s.table.push_back(numbers_of(parsed));
  }
  return s;
}

/// Rows of eval with a metric, of all sources.
std::vector<json> rows_of(std::span<const source> sources, const std::string& metric) {
  std::vector<json> found;
  for (const source& s : sources) {
    if (!s.document.is_object() || !s.document.contains("rows")) continue;
    for (const json& row : s.document["rows"]) {
      if (row.value("metric", "") == metric) found.push_back(row);
    }
  }
  return found;
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
    for (const json& row : rows_of(std::span(&s, 1), "ppl_regular")) {
      for (const json& b : bytes) {
        if (b["method"] != row["method"]) continue;
        const auto method = row["method"].get<std::string>();
        if (!curves.contains(method)) order.push_back(method);
        curves[method].push_back({b["value"].get<double>() / 1e6, row["value"].get<double>(),
                                  row["ci95"][0].get<double>(), row["ci95"][1].get<double>()});
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
  for (const json& row : rows_of(sources, "ppl_by_position")) {
    const auto method = row["method"].get<std::string>();
    if (!curves.contains(method)) order.push_back(method);
    const json& s = row["settings"];
    curves[method].push_back(
        {(s["position_begin"].get<double>() + s["position_end"].get<double>()) / 2,
         row["value"].get<double>()});
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
  for (const json& row : rows_of(sources, "needle_accuracy_at_depth")) {
    const auto method = row["method"].get<std::string>();
    if (!panels.contains(method)) order.push_back(method);
    const double length = row["settings"]["length"].get<double>();
    const double depth = row["settings"]["depth"].get<double>();
    lengths.insert(length);
    depths.insert(depth);
    panels[method][{length, depth}] = row["value"].get<double>();
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
    if (!f.document.is_object() || !f.document.contains("kv_rows")) continue;
    std::vector<std::vector<double>> points;
    double n = 0;
    for (const json& rows : f.document["kv_rows"]) {
      points.push_back({n, rows.get<double>()});
      n += 1;
    }
    if (points.size() > full.size()) {
      full.clear();
      for (const auto& p : points) full.push_back({p[0], points[0][1] + p[0]});
    }
    const std::string name = block_name(i);
    s += block(name, points);
    plots += (plots.empty() ? "plot " : ", ") + reference(name) + " using 1:2 title " +
             in_quotes(f.document.value("method", f.name)) + curve(i, "lines") + " lw 1.5";
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
  for (const json& row : rows_of(sources, "seconds_first_token")) {
    for (const json& end : rows_of(sources, "seconds_end_to_end")) {
      if (end["method"] != row["method"] ||
          end["settings"]["length"] != row["settings"]["length"]) {
        continue;
      }
      const auto x = static_cast<double>(bars.size());
      tics += (bars.empty() ? "" : ", ") +
              in_quotes(row["method"].get<std::string>() + " " + row["settings"]["length"].dump()) +
              " " + std::to_string(bars.size());
      bars.push_back({x, row["value"].get<double>(), end["value"].get<double>()});
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
       return std::any_of(s.begin(), s.end(), [](const source& f) {
         return f.document.is_object() && f.document.contains("kv_rows") &&
                !f.document["kv_rows"].empty();
       });
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
  std::string command = "gnuplot ";
  for (const char c : path) command += c == '\'' ? "'\\''" : std::string(1, c);
  std::FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) throw backend_error("gnuplot: cannot be started");
  std::string svg;
  std::array<char, 4096> piece{};
  for (std::size_t n = 0; (n = std::fread(piece.data(), 1, piece.size(), pipe)) > 0;) {
    svg.append(piece.data(), n);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) {
    throw backend_error("gnuplot: is not installed (Debian: gnuplot-nox)");
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
