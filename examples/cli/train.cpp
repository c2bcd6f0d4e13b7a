// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <memory>
#include <string>

#include <cli/errors.hpp>
#include <cli/options.hpp>
#include <cli/output.hpp>
#include <cli/training_run.hpp>
#include <cli/verbs.hpp>

namespace gistkv::cli {

namespace {

void train_verb(const train_options& o) {
  if (o.method != "sag" && o.method != "gmsa") {
    throw usage_error("METHOD is '" + o.method + "', want sag or gmsa");
  }
  const bool soft = o.method == "gmsa";
  const auto backend = this_backend();
  if (soft ? backend.make_soft_trainer == nullptr : backend.make_trainer == nullptr) {
    throw usage_error("gistkv-" + std::string(backend.name) + " does not train " + o.method +
                      "; gistkv-onednn and gistkv-eigen do");
  }
  if (o.stage && *o.stage < 1) {
    throw usage_error("--stage is " + std::to_string(*o.stage) + ", want 1 or more");
  }
  if (!(o.max_minutes >= 0)) {
    throw usage_error("--max-minutes is " + decimal(o.max_minutes, 3) +
                      ", want 0 (no limit) or more");
  }
  check_threads(o.threads);
  const auto run = soft ? make_soft_run(o) : make_gist_run(o);
  const json report = run->run();
  if (o.json) return print_json(report);
  print("wrote      " + report["adapter"].get<std::string>() + "\n");
  if (!report["finished"]) note("the minutes are up; --resume goes on");
}

}  // namespace

void add_train(CLI::App& app) {
  auto o = std::make_shared<train_options>();
  CLI::App& verb =
      add_verb(app, "train",
               "Train gists, and LoRA, on texts; or a compressor of gmsa, on texts and questions");
  add_required(verb, "METHOD", o->method, "sag or gmsa");
  add_required(verb, "--config", o->config, "What to train on what, how", "C.json");
  add_option(verb, "--stage", o->stage, "Only this stage of the config, from 1", "N");
  add_flag(verb, "--resume", o->resume, "Go on from the checkpoint in the config's output folder");
  add_option(verb, "--max-minutes", o->max_minutes,
             "End with a checkpoint behind the step in which so many minutes, start and validation "
             "included, have gone by; --resume goes on (0: no limit)",
             "MINUTES");
  add_option(verb, "--threads", o->threads, "Threads; 0: all that the machine has");
  add_json(verb, o->json);
  add_example(verb, "gistkv train sag --config train.json");
  on_run(verb, [o] { train_verb(*o); });
}

}  // namespace gistkv::cli
