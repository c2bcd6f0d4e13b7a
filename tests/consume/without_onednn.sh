#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# without_onednn.sh: where oneDNN is absent, or of a version that is not supported, the build says so
# in one line and the rest installs; asking the installation for the component fails and says why.
# Environment: CMAKE CXX SOURCE BUILD
set -eu

work=$BUILD/consume/without_onednn
rm -rf "$work"
mkdir -p "$work/of_the_future/include/oneapi/dnnl" "$work/of_the_future/lib"
touch "$work/of_the_future/include/oneapi/dnnl/dnnl.hpp" "$work/of_the_future/lib/libdnnl.so"
for number in 'MAJOR 4' 'MINOR 0' 'PATCH 1'; do
  echo "#define DNNL_VERSION_$number"
done > "$work/of_the_future/include/oneapi/dnnl/dnnl_version.h"

fail() {
  echo "$1"
  cat "$2"
  exit 1
}

# refused DIRECTORY OPTION REASON
refused() {
  log=$work/$1.log
  "$CMAKE" -G Ninja -S "$SOURCE" -B "$work/$1" -DCMAKE_CXX_COMPILER="$CXX" "$2" \
    -DGISTKV_BUILD_TESTS=OFF -DGISTKV_BUILD_EXAMPLES=OFF -DGISTKV_BUILD_BENCHMARKS=OFF \
    > "$log" 2>&1 || fail "does not configure without oneDNN:" "$log"
  [ "$(grep -v '^-- Build files' "$log" | grep -ci -e onednn -e dnnl)" = 1 ] || fail "wanted one line on oneDNN:" "$log"
  grep -qx -- "-- gistkv::onednn: off, $3" "$log" || fail "wanted another reason ($3):" "$log"
}
refused future -Ddnnl_ROOT="$work/of_the_future" 'oneDNN is 4.0.1, 2.6 to 3 would be right'
refused absent -DCMAKE_DISABLE_FIND_PACKAGE_dnnl=ON \
  'oneDNN 2.6 to 3 was not found (Debian: libdnnl-dev)'

"$CMAKE" --install "$work/absent" --prefix "$work/prefix" > "$work/install.log"
if "$CMAKE" -G Ninja -S "$SOURCE/tests/consume/find_package" -B "$work/build" \
  -DCMAKE_CXX_COMPILER="$CXX" -DBACKEND=onednn -DCMAKE_PREFIX_PATH="$work/prefix" \
  > "$work/find.log" 2>&1; then
  fail "find_package found a component that was not installed:" "$work/find.log"
fi
tr -s '\n ' '  ' < "$work/find.log" |
  grep -q "component 'onednn' is not part of this installation" ||
  fail "find_package does not say which component is missing:" "$work/find.log"
