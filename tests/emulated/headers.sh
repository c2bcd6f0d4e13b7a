#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# headers.sh FROM TO: the headers of backends/onednn/include as they are, but for AVX-512 and AMX, whose
# intrinsics become functions of intrinsics.hpp and which then any CPU with AVX2 has. Weights in floats are
# multiplied in float: oneDNN multiplies bf16 only on CPUs that do.
set -eu
from=$1 to=$2
rm -rf "$to.new"
mkdir -p "$to.new"
cp -R "$from/." "$to.new"
find "$to.new" -type f | while read -r file; do
  sed -i -E \
    -e 's/\b_(mm512_[a-z0-9_]+|mm(256)?_maskz?_[a-z0-9_]+|mm_cmp(ge|lt)_epi32_mask|tile_[a-z0-9]+)\(/emulated::\1(/g' \
    -e 's/avx512f,avx512bw,avx512dq,avx512vl,fma(,avx512vnni)?(,avx512bf16)?(,f16c)?(,amx-tile,amx-bf16)?/avx2,fma,f16c/' \
    -e 's|^#include <immintrin.h>|#include "emulated/intrinsics.hpp"|' \
    -e '/__asm__\("" : "\+v"/d' \
    -e 's/^(inline instruction_set best_instruction_set\(\) \{)$/\1\n  if (emulated::possible()) return instruction_set::amx;/' \
    -e 's/isa_ >= instruction_set::avx512_bf16;$/false;/' "$file"
done
rm -rf "$to"
mv "$to.new" "$to"
