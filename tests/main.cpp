// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

// The main function of every test program. Exit status: 0 all passed, 77 nothing failed but a case
// was skipped, else failed. A run that executed no test case failed: its filter was wrong.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>

#include <support/data.hpp>

namespace {

unsigned cases_run = 0;

struct counter : doctest::IReporter {
  explicit counter(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override {
    cases_run = stats.numTestCasesPassingFilters;
  }
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

REGISTER_LISTENER("counter", 1, counter);

}  // namespace

int main(int argc, char** argv) {
  // The directories that CMake was configured with, unless the environment names others.
  setenv("GISTKV_DATA_DIR", GISTKV_TEST_DATA_DIR, 0);
  setenv("GISTKV_GOLDEN_DIR", GISTKV_TEST_GOLDEN_DIR, 0);
  setenv("GISTKV_MODEL", GISTKV_TEST_MODEL, 0);
  setenv("GISTKV_SOURCE_DIR", GISTKV_TEST_SOURCE_DIR, 0);
  doctest::Context context(argc, argv);
  const int status = context.run();
  if (context.shouldExit()) return status;
  if (cases_run == 0) {
    std::cout << "no test case was run: the filter matches none\n";
    return 1;
  }
  const auto& skips = gistkv::test::skips();
  if (!skips.empty()) std::cout << skips.size() << " skipped for want of data\n";
  return status != 0 ? status : (skips.empty() ? 0 : 77);
}
