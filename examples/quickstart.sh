#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# sh examples/quickstart.sh: installs what is missing, builds the program for this CPU, obtains a small
# model, compresses a long text that every Debian has, asks it a question, and shows what the
# compressed cache holds beside the full one. Works on a bare Debian 12 as root or with sudo.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

text=/usr/share/common-licenses/GPL-2
question='What must you cause modified files to carry?'
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
  $build/gistkv "$@" --model "$model"
}
run compress $text -o $build/gpl-2.gkv
run ask $build/gpl-2.gkv "$question"
run ask $text "$question" --compare
