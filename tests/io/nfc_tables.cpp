// Copyright 2026 The gistkv authors
// SPDX-License-Identifier: Apache-2.0

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <support/data.hpp>

TEST_CASE("nfc: the tables are what their script writes") {
  const auto script = gistkv::test::source_dir() / "tests/generate/nfc_tables.py";
  if (!gistkv::test::require_file(script)) return;
  const int status = std::system(("python3 '" + script.string() + "' --check 2>/dev/null").c_str());
  REQUIRE(WIFEXITED(status));
  const int code = WEXITSTATUS(status);
  if (code == 77 || code == 127) {
    gistkv::test::skip("unicodedata2 17.0.1 cannot be imported by python3");
    return;
  }
  CHECK(code == 0);
}
