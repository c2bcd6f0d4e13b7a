#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# table.sh PROGRAM: the README's table of operations has the heading and the rows that the program
# prints, and no others of its backend.
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
readme=$(dirname "$0")/../../README.md

does verify --table
sed -n '/^<!-- gistkv verify --table -->$/,/^<!-- end -->$/p' "$readme" | grep '^|' > "$work/copy" ||
  wrong 'README.md: no table behind the line <!-- gistkv verify --table -->'
backend=$(sed -n '3s/^| \([a-z]*\) .*/\1/p' "$work/out")
[ -n "$backend" ] || wrong "verify --table: no backend in the third line: $(cat "$work/out")"
{
  head -n 2 "$work/copy"
  grep "^| $backend " "$work/copy"
} > "$work/rows" || true
if ! diff -u "$work/rows" "$work/out"; then
  wrong "README.md has not what gistkv-$backend verify --table prints"
fi
checks=$((checks + 2))
finish
