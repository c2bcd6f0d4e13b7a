#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# layers.sh SOURCE: arrows between folders point inward, headers are short, marked and guarded.
set -eu
cd "$1"
failed=0
fail() {
  echo "$1"
  failed=1
}

# Folders that a folder's headers may include, besides itself.
allowed() {
  case $1 in
    core) ;;
    text | mask | ops) echo 'core text mask ops' ;;
    model | cache) echo 'core text mask ops model cache' ;;
    train | gmsa | eval) echo 'core text mask ops model cache train gmsa eval' ;;
    io) echo 'core text mask ops model cache gmsa' ;;
    conformance) echo 'core text mask ops model cache' ;;
    mpi | nccl) echo 'core' ;;
    backends) echo 'core mask ops' ;;
    *) echo '-' ;;
  esac
}

headers=$(find include backends -name '*.hpp' -o -name '*.cuh' -o -name '*.inc' | sort)
for header in $headers; do
  folder=${header#*include/gistkv/}
  folder=${folder%%/*}
  may=" $folder $(allowed "$folder") "
  case $may in *' - '*) fail "$header: layers.sh does not know folder '$folder'" ;; esac
  for included in $(sed -n 's,^ *# *include *<gistkv/\([a-z_]*\)/.*,\1,p' "$header" | sort -u); do
    case $may in
      *" $included "*) ;;
      *) fail "$header: $folder must not include gistkv/$included/" ;;
    esac
  done
  ! grep -Hn '^ *# *include *"' "$header" || fail "$header: include with <...>"
  case $header in include/*) most=399 ;; *) most=799 ;; esac
  lines=$(wc -l < "$header")
  [ "$lines" -le $most ] || fail "$header: $lines lines, at most $most"
  # Parts are compiled several times, on purpose, and have what they need from who includes them.
  case $header in
    *.inc)
      ! grep -Hn -e '^#pragma once' -e '^ *# *include' "$header" ||
        fail "$header: a part must not guard itself or include anything"
      ;;
    *) [ "$(grep -c '^#pragma once$' "$header")" = 1 ] || fail "$header: needs one #pragma once" ;;
  esac
done

for file in $headers $(find backends tests examples benchmarks -name '*.cpp' -o -name '*.sh'); do
  head -n 4 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' ||
    fail "$file: needs the two lines of copyright and licence"
done

echo "$(echo "$headers" | wc -l) headers looked at"
exit $failed
