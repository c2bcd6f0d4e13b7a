#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# fuzz.sh FILE: the libFuzzer target compiles, and survives a short run from a fixed seed. A long run is
# the same program without its limits: SCRATCH/fuzz/NAME. Environment: CLANGXX SOURCE SCRATCH
set -eu

name=$(basename "$1" .cpp)
work=$SCRATCH/fuzz
mkdir -p "$work/$name.corpus"
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
  "$CLANGXX" -x c++ -fsanitize=fuzzer,address,undefined - -o "$work/$name.probe" 2> /dev/null; then
  echo "SKIPPED: no clang++ with libFuzzer (Debian: clang libclang-rt-dev)"
  exit 77
fi
"$CLANGXX" -std=c++20 -g1 -O1 -Wall -Wextra -fsanitize=fuzzer,address,undefined \
  -fno-sanitize-recover=all -I "$SOURCE/include" "$1" -o "$work/$name"
"$work/$name" -seed=1 -runs=20000 -max_total_time=20 -timeout=10 -rss_limit_mb=2048 \
  -artifact_prefix="$work/" "$work/$name.corpus" > "$work/$name.log" 2>&1 || {
  tail -n 60 "$work/$name.log"
  exit 1
}
grep '^Done ' "$work/$name.log"
