// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>
#include <string>

#include <cli/engine.hpp>
#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/verbs.hpp>
#include <gistkv/conformance/run.hpp>

namespace gistkv::cli {

namespace {

struct verify_options {
  std::string backend_name;
  int threads = 0;
  bool quick = false;
  bool json = false;
};

json case_report(const conformance::result& r) {
  json row;
  row["op"] = r.op;
  row["dtype"] = r.dtype;
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

void verify(const verify_options& o) {
  const std::string name(backend::name);
  if (!o.backend_name.empty() && o.backend_name != name) {
    throw usage_error("--backend is '" + o.backend_name + "', this program was built with " + name);
  }
  backend be(o.threads);
  conformance::report report;
  const stopwatch watch;
  conformance::run(be, report, {.model_shapes = !o.quick});
  if (o.json) {
    json rows = json::array();
    for (const conformance::result& r : report.results()) rows.push_back(case_report(r));
    print_json(json{{"backend", name},
                    {"threads", be.n_threads()},
                    {"passed", report.passed()},
                    {"n_run", report.n_run()},
                    {"n_failed", report.n_failed()},
                    {"n_skipped", report.n_skipped()},
                    {"seconds", watch.seconds()},
                    {"rows", rows}});
  } else {
    print("backend " + name + ", " + std::to_string(be.n_threads()) + " threads\n" +
          conformance::format(report));
  }
  if (!report.passed()) {
    throw backend_error("verify: " + std::to_string(report.n_failed()) + " of " +
                        std::to_string(report.n_run()) + " cases failed on " + name);
  }
}

}  // namespace

void add_verify(CLI::App& app) {
  auto o = std::make_shared<verify_options>();
  CLI::App* verb = app.add_subcommand(
      "verify", "Check every operation on this machine against an exact computation");
  verb->add_option("--backend", o->backend_name, "The backend to check (the one that was built)")
      ->type_name("NAME");
  verb->add_option("--threads", o->threads, "Threads to compute with; 0: all that there are")
      ->type_name("N");
  verb->add_flag("--quick", o->quick, "Without the large shapes of a real model");
  add_json(*verb, o->json);
  add_example(*verb, "gistkv verify --quick");
  verb->callback([o] { verify(*o); });
}

}  // namespace gistkv::cli
