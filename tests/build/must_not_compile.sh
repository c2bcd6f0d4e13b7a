#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# must_not_compile.sh FILE: the file compiles without its lines marked "// rejected" and does not
# compile with them, for the reason that its line "// expect: REGEX" gives.
# Environment: CXX SOURCE EIGEN SCRATCH
set -eu

compile() {
  "$CXX" -std=c++20 -fsyntax-only -x c++ -I "$SOURCE/include" -I "$SOURCE/backends/eigen/include" \
    -isystem "$EIGEN" -
}

expected=$(sed -n 's,^// expect: ,,p' "$1")
if [ -z "$expected" ] || ! grep -q '// rejected$' "$1"; then
  echo "$1: needs a line '// expect: REGEX' and lines that end in '// rejected'"
  exit 1
fi
if ! grep -v '// rejected$' "$1" | compile; then
  echo "$1: does not compile even without the rejected lines"
  exit 1
fi
if said=$(compile < "$1" 2>&1); then
  echo "$1: compiles, and must not"
  exit 1
fi
if ! echo "$said" | grep -Eq -- "$expected"; then
  echo "$1: is rejected, but no diagnostic matches '$expected':"
  echo "$said"
  exit 1
fi
