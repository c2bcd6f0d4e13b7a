#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The program compiles ten files at a time, as examples/quickstart.sh has it: no two files may give one
# name to different things, nor hide another's. Read only, no code is made. Environment: CMAKE CXX SOURCE SCRATCH
set -eu

work=$SCRATCH/unity
rm -rf "$work"
mkdir -p "$work"
echo 'add_compile_options(-fsyntax-only)' > "$work/read_only.cmake"
for step in "-G Ninja -S $SOURCE -B $work -DCMAKE_CXX_COMPILER=$CXX -DGISTKV_BUILD_TESTS=OFF
    -DGISTKV_BUILD_BENCHMARKS=OFF -DGISTKV_CUDA=OFF -DGISTKV_WARNINGS_AS_ERRORS=ON
    -DCMAKE_PROJECT_INCLUDE=$work/read_only.cmake
    -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=10" "--build $work --target gistkv_cli"; do
  # shellcheck disable=SC2086
  "$CMAKE" $step > "$work.log" 2>&1 || {
    tail -n 40 "$work.log"
    exit 1
  }
done
grep -o 'Unity/unity_[0-9]*_cxx.cxx.o' "$work.log" | sort -u
[ "$(grep -c 'Unity/unity_[0-9]*_cxx.cxx.o' "$work.log")" -gt 1 ]
rm -rf "$work"
