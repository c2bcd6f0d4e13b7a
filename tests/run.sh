#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# sh tests/run.sh [CTEST OPTION...]: installs what is missing, builds, runs the tests. Works on a bare
# Debian 12 as root or with sudo, and is fast the second time. `sh tests/run.sh -R text` runs a part.
# Environment: GISTKV_DATA_DIR and GISTKV_GOLDEN_DIR, where data and expected results are, if anywhere.
set -eu
cd "$(dirname "$0")/.."
. examples/setup.sh
mkdir -p build

install_packages g++ cmake ninja-build ccache libeigen3-dev nlohmann-json3-dev libcli11-dev \
  doctest-dev libbenchmark-dev python3
install_if_possible libdnnl-dev
install_if_possible libopenmpi-dev openmpi-bin
install_if_possible gnuplot-nox
obtain_model
# Modules with which a test writes the Unicode tables anew and compares.
modules=$model_dir/python
if ! [ -d "$modules" ]; then
  rm -rf "$modules.new"
  if (need_pip) && python3 -m pip install --quiet --no-deps --only-binary :all: \
    --target "$modules.new" unicodedata2==17.0.1 regex==2025.11.3 > build/pip.log 2>&1; then
    mv "$modules.new" "$modules"
  else
    note "without the PyPI packages unicodedata2 and regex: the test that needs them will be skipped"
  fi
fi
export PYTHONPATH="$modules${PYTHONPATH:+:$PYTHONPATH}"

jobs=$(nproc)
build=build/dev
cmake --preset dev -DGISTKV_MODEL="$model" \
  ${GISTKV_DATA_DIR:+"-DGISTKV_DATA_DIR=$GISTKV_DATA_DIR"} \
  ${GISTKV_GOLDEN_DIR:+"-DGISTKV_GOLDEN_DIR=$GISTKV_GOLDEN_DIR"} > $build.configure.log 2>&1 || {
  cat $build.configure.log
  exit 1
}
cmake --build $build --parallel "$jobs"

status=0
ctest --test-dir $build --parallel "$jobs" --output-on-failure --output-log $build/ctest.log "$@" ||
  status=$?
# ctest names the skipped tests; their reasons stand in its log. Its summary stays the last word.
if grep -q '^SKIPPED: ' $build/Testing/Temporary/LastTest.log 2> /dev/null; then
  echo
  echo "Skipped, for these reasons (cases, reason):"
  grep -h '^SKIPPED: ' $build/Testing/Temporary/LastTest.log | sed 's/^SKIPPED: //' | sort | uniq -c
  echo
  sed -n -e 's/^\[ERROR_MESSAGE\] //' -e '/% tests passed, /,$p' $build/ctest.log
fi
exit $status
