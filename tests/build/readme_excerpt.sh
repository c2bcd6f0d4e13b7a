#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# readme_excerpt.sh SOURCE: the first C++ block of README.md is the marked part of the first example.
set -eu
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sed -n '/^ *\/\/ example-begin$/,/^ *\/\/ example-end$/p' examples/01_segment.cpp |
  grep -v '^ *// example-\(begin\|end\)$' > "$work/example" || true
awk '/^```cpp$/ && !seen { inside = seen = 1; next } /^```$/ { inside = 0 } inside' README.md > "$work/readme"
if ! [ -s "$work/example" ]; then
  echo "examples/01_segment.cpp: no lines between '// example-begin' and '// example-end'"
  exit 1
fi
diff -u "$work/example" "$work/readme"
