// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <cli/backend.hpp>
#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/verbs.hpp>
#include <gistkv/conformance/report.hpp>

namespace gistkv::cli {

namespace {

struct verify_options {
  std::string backend_name;
  int threads = 0;
  bool quick = false;
  bool table = false;
  bool json = false;
};

json case_report(const conformance::result& r, const std::string& factors) {
  json row;
  row["op"] = r.op;
  row["dtype"] = r.dtype;
  row["factors"] = factors;
  row["path"] = r.path;
  row["case"] = r.case_text;
  row["seed"] = r.seed;
  row["status"] = r.skipped() ? "skipped" : r.passed() ? "passed" : "failed";
  if (r.skipped()) {
    row["reason"] = r.skip_reason;
    return row;
  }
  row["error"] = r.worst.error;
  row["budget"] = r.worst.budget;
  if (!r.passed()) row["failure"] = r.failure;
  return row;
}

/// "| a | b |"
std::string table_line(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  return line + "\n";
}

/// Markdown, a row an element type. A row says by itself which backend it is of, so that the tables
/// of several programs are put together by their rows.
std::string support_markdown() {
  std::vector<std::string> heading = {"backend", "type"};
  heading.insert(heading.end(), operations.begin(), operations.end());
  heading.emplace_back("caches");
  std::string table = table_line(heading) + table_line({heading.size(), "---"});
  const built_backend built = this_backend();
  for (const type_support& row : built.support) {
    std::vector<std::string> cells = {std::string(built.name), std::string(row.type)};
    for (const support s : row.of) cells.emplace_back(to_string(s));
    std::string caches;
    for (std::size_t i = 0; i < cache_element_types.size(); ++i) {
      if (row.caches[i]) {
        caches += (caches.empty() ? "" : ", ") + std::string(cache_element_types[i]);
      }
    }
    cells.push_back(caches.empty() ? "no" : caches);
    table += table_line(cells);
  }
  return table;
}

/// Element types that no form of this program computes on are skips, which are counted.
conformance::report skipped_types() {
  conformance::report all;
  const built_backend built = this_backend();
  for (const type_support& row : built.support) {
    const bool here =
        std::any_of(built.forms.begin(), built.forms.end(),
                    [&row](const checked_form& form) { return form.activations == row.type; });
    if (here) continue;
    const bool elsewhere = row.of.front() != support::no;
    all.add({.op = "all",
             .dtype = std::string(row.type),
             .path = "native",
             .case_text = "",
             .skip_reason = std::string(built.name) + " does not compute on " +
                            std::string(row.type) + (elsewhere ? " in this program" : "")});
  }
  return all;
}

void verify(const verify_options& o) {
  const std::string name(this_backend().name);
  if (!o.backend_name.empty() && o.backend_name != name) {
    throw usage_error("--backend is '" + o.backend_name + "', this program was built with " + name +
                      "; there is a program gistkv-BACKEND for each");
  }
  check_threads(o.threads);
  if (o.table) return print(support_markdown());
  const stopwatch watch;
  const backend_info info = make_backend({}, o.threads)->info();
  json rows = json::array();
  std::size_t n_run = 0;
  std::size_t n_failed = 0;
  for (const checked_form& form : this_backend().forms) {
    const std::string factors(form.factors);
    const conformance::report found = form.check(o.threads, o.quick);
    n_run += found.n_run();
    n_failed += found.n_failed();
    for (const conformance::result& r : found.results()) rows.push_back(case_report(r, factors));
    if (o.json) continue;
    print(name + ", activations " + std::string(form.activations) + ", factors of products " +
          factors + ", " + threads_text(info) + "\n" + conformance::format(found) + "\n");
  }
  const conformance::report skips = skipped_types();
  for (const conformance::result& r : skips.results()) {
    rows.push_back(case_report(r, r.dtype));
    if (!o.json) print("skipped " + r.dtype + ": " + r.skip_reason + "\n");
  }
  // A program that ran nothing did not pass.
  const bool passed = n_run > 0 && n_failed == 0;
  if (o.json) {
    print_json(json{{"backend", name},
                    {"threads", info.n_threads},
                    {"instruction_set", info.instruction_set},
                    {"passed", passed},
                    {"n_run", n_run},
                    {"n_failed", n_failed},
                    {"n_skipped", skips.n_skipped()},
                    {"seconds", watch.seconds()},
                    {"rows", rows}});
  }
  if (!passed) {
    throw backend_error("verify: " + std::to_string(n_failed) + " of " + std::to_string(n_run) +
                        " cases failed on " + name);
  }
}

}  // namespace

void add_verify(CLI::App& app) {
  auto o = std::make_shared<verify_options>();
  CLI::App& verb =
      add_verb(app, "verify", "Check every operation on this machine against an exact computation");
  add_option(verb, "--backend", o->backend_name, "The backend to check (the one that was built)",
             "NAME");
  add_option(verb, "--threads", o->threads, "Threads to compute with; 0: all that there are", "N");
  add_flag(verb, "--quick", o->quick, "Without the large shapes of a real model");
  add_flag(verb, "--table", o->table,
           "Check nothing; print which operations are native, as Markdown");
  add_json(verb, o->json);
  add_example(verb, "gistkv verify --quick");
  on_run(verb, [o] { verify(*o); });
}

}  // namespace gistkv::cli
