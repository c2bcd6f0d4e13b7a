#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# cuda.sh: a stranger's project builds with the installed gistkv::cuda; its program runs where a GPU is.
# Without nvcc, the build says in one line that the backend is off, and the rest installs.
# Environment: CMAKE CXX NVCC (empty if the backend is off) SOURCE BUILD
set -eu

work=$BUILD/consume/cuda
rm -rf "$work"
mkdir -p "$work"
library() {
  build_dir=$1
  shift
  "$CMAKE" -G Ninja -S "$SOURCE" -B "$build_dir" -DCMAKE_CXX_COMPILER="$CXX" \
    -DGISTKV_BUILD_TESTS=OFF -DGISTKV_BUILD_EXAMPLES=OFF -DGISTKV_BUILD_BENCHMARKS=OFF "$@"
}

library "$work/off" -DGISTKV_CUDA=OFF > "$work/off.log"
[ "$(grep -v "^-- Build files" "$work/off.log" | grep -ci cuda)" = 1 ] &&
  grep -qx -- '-- gistkv::cuda: off, GISTKV_CUDA is OFF' "$work/off.log" || {
  echo "wanted one line on CUDA:"
  cat "$work/off.log"
  exit 1
}
"$CMAKE" --install "$work/off" --prefix "$work/prefix_off" > /dev/null
[ ! -e "$work/prefix_off/share/cmake/gistkv/gistkv-cuda.cmake" ] || exit 1
if [ -z "$NVCC" ]; then
  echo "SKIPPED: gistkv::cuda is off"
  exit 77
fi

library "$work/on" -DCMAKE_CUDA_COMPILER="$NVCC" > "$work/on.log"
"$CMAKE" --install "$work/on" --prefix "$work/prefix" > "$work/install.log"
"$CMAKE" -G Ninja -S "$SOURCE/tests/consume/cuda" -B "$work/build" -DCMAKE_CXX_COMPILER="$CXX" \
  -DCMAKE_CUDA_COMPILER="$NVCC" -DCMAKE_PREFIX_PATH="$work/prefix"
"$CMAKE" --build "$work/build"
status=0
"$work/build/consumer_cuda" || status=$?
# To compile and to link is what can be shown without a GPU.
[ $status = 0 ] || [ $status = 77 ]
