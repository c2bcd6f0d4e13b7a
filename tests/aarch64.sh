#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# sh tests/aarch64.sh [CTEST OPTION...]: installs what is missing, builds the tests for 64-bit ARM and
# runs those that need no model, in an emulator. Works on Debian 12 for x86-64, as root or with sudo.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh

install_packages cmake ninja-build ccache g++-aarch64-linux-gnu qemu-user libeigen3-dev \
  nlohmann-json3-dev doctest-dev
build=build/aarch64
mkdir -p $build

# oneDNN for ARM, in a folder: this machine need not know packages of another architecture for it.
sysroot=$PWD/$build/sysroot
if ! [ -d "$sysroot" ]; then
  apt=$PWD/$build/apt
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
  : > "$apt/status"
  {
    echo 'APT { Architecture "arm64"; Architectures { "arm64"; }; Sandbox::User "root"; };'
    echo "Dir { State \"$apt/state\"; State::status \"$apt/status\"; Cache \"$apt/cache\"; };"
  } > "$apt/apt.conf"
  rm -rf "$sysroot.new"
  if (export APT_CONFIG="$apt/apt.conf" && apt-get update && cd "$apt/packages" &&
    apt-get download libdnnl-dev libdnnl2) > $build/apt.log 2>&1; then
    for package in "$apt"/packages/*.deb; do
      dpkg-deb --extract "$package" "$sysroot.new"
    done
    mv "$sysroot.new" "$sysroot"
  else
    note "without the package libdnnl-dev:arm64 ($build/apt.log): tests of backends/onednn are skipped"
  fi
  rm -rf "$apt"
fi

cmake --preset aarch64 -Ddnnl_ROOT="$sysroot/usr" > $build/configure.log 2>&1 || {
  cat $build/configure.log
  exit 1
}
# shellcheck disable=SC2046
cmake --build $build --parallel "$(nproc)" --target \
  $(printf 'gistkv_test_%s ' core text mask ops model cache conformance io odr)
ctest --test-dir $build --parallel "$(nproc)" --output-on-failure \
  --label-regex '^(core|text|mask|ops|model|cache|conformance|io|build)$' "$@"
