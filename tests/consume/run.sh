#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# run.sh find_package|add_subdirectory eigen|onednn: builds and runs a project that uses the library as
# strangers do. Environment: CMAKE CXX SOURCE BUILD, ONEDNN (empty if that backend is off)
set -eu

way=$1
backend=$2
work=$BUILD/consume/$way.$backend
if [ "$backend" = onednn ] && [ -z "$ONEDNN" ]; then
  echo "SKIPPED: gistkv::onednn is off"
  exit 77
fi
rm -rf "$work"
mkdir -p "$work"

configure() {
  build_dir=$1
  shift
  "$CMAKE" -G Ninja -S "$SOURCE/tests/consume/$way" -B "$build_dir" -DCMAKE_CXX_COMPILER="$CXX" \
    -DBACKEND="$backend" "$@"
}

if [ "$way" = find_package ]; then
  "$CMAKE" --install "$BUILD" --prefix "$work/prefix" > "$work/install.log"
  set -- -DCMAKE_PREFIX_PATH="$work/prefix"
  # A component that was not installed must fail, and the message must name it.
  if configure "$work/missing" "$@" -DEXTRA_COMPONENT=abacus > "$work/missing.log" 2>&1; then
    echo "find_package succeeded with a component that does not exist"
    exit 1
  fi
  tr -s '\n ' '  ' < "$work/missing.log" |
    grep -q "component 'abacus' is not part of this installation" || {
    echo "find_package does not say which component is missing:"
    cat "$work/missing.log"
    exit 1
  }
else
  set -- -DGISTKV_SOURCE="$SOURCE"
fi

configure "$work/build" "$@"
"$CMAKE" --build "$work/build"
"$work/build/consumer_$backend"
[ "$backend" = onednn ] || "$work/build/own_backend"
