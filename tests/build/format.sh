#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# format.sh SOURCE: every C++ file is as clang-format 14 leaves it (other versions differ in detail).
set -eu
cd "$1"
for candidate in clang-format-14 clang-format; do
  if "$candidate" --version 2> /dev/null | grep -q ' 14\.'; then
    wrong=$(find include backends examples tests benchmarks \
      -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' | sort |
      xargs "$candidate" --dry-run 2>&1 | sed -n 's/^\([^ :]*\):[0-9].*/\1/p' | sort -u)
    [ -n "$wrong" ] || exit 0
    echo "$wrong"
    echo "clang-format 14 lays these files out differently: clang-format-14 -i FILE..."
    exit 1
  fi
done
echo "SKIPPED: clang-format 14 is not installed"
exit 77
