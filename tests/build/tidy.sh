#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# tidy.sh SOURCE BUILD: clang-tidy, with the checks of .clang-tidy, on a few files that between them
# include most headers.
set -eu
cd "$1"
for candidate in clang-tidy-14 clang-tidy; do
  if "$candidate" --version 2> /dev/null | grep -q ' 14\.'; then
    files=$(ls examples/0*.cpp 2> /dev/null) || true
    if [ -z "$files" ]; then
      echo "examples/: nothing to look at"
      exit 1
    fi
    backend=tests/conformance/onednn_allocations.cpp
    ! grep -q "$backend" "$2/compile_commands.json" || files="$files $backend"
    # shellcheck disable=SC2086
    printf '%s\n' $files | xargs -n 1 -P 2 "$candidate" -p "$2" --quiet \
      --warnings-as-errors='*' --extra-arg=-Wno-unknown-warning-option
    exit
  fi
done
echo "SKIPPED: clang-tidy 14 is not installed"
exit 77
