#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# sh examples/quickstart.sh: installs what is missing, builds the program for this CPU, obtains a small
# model, compresses a long text that every Debian has with trained gists, compresses a short one and asks
# about it, and shows what the compressed cache holds beside the full one, and what both answer. Works on a
# bare Debian 12 as root or with sudo.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

long=/usr/share/common-licenses/GPL-2
short=/usr/share/common-licenses/BSD
question='By whom is the software provided?'
# No sentence stays raw: what is answered comes from gists.
layout='--recent 0 --segmenter paper,before,max_length:8'
adapter=examples/adapters/smollm2-135m-instruct-gists/adapter.safetensors
build=build/quickstart

install_packages g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev libcli11-dev
install_if_possible libdnnl-dev
obtain_model

note "building the program"
mkdir -p $build
if ! {
  cmake -G Ninja -S . -B $build -DCMAKE_BUILD_TYPE=Release -DGISTKV_NATIVE=ON \
    -DGISTKV_BUILD_TESTS=OFF -DGISTKV_BUILD_BENCHMARKS=OFF &&
    cmake --build $build --target gistkv
} > $build/build.log 2>&1; then
  tail -n 40 $build/build.log >&2
  fail "the build failed; the whole log is $build/build.log"
fi

run() {
  printf '\n$ gistkv'
  for argument in "$@"; do
    case $argument in *' '*) printf " '%s'" "$argument" ;; *) printf ' %s' "$argument" ;; esac
  done
  printf '\n'
  $build/gistkv "$@" --model "$model" --adapter $adapter
}
run compress $long -o $build/gpl-2.gkv
# shellcheck disable=SC2086
run compress $short -o $build/bsd.gkv $layout
run ask $build/bsd.gkv "$question"
# shellcheck disable=SC2086
run ask $short "$question" --compare $layout
