#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# types.sh PROGRAM [OTHER...]: what a program says of its backend, its cache types, and contexts that
# were written with another type or by another program. Environment: GISTKV_MODEL.
set -eu
gistkv=$1
shift
model=${GISTKV_MODEL:-}
if ! [ -e "$model" ]; then
  echo "SKIPPED: GISTKV_MODEL is '$model', want the model of examples/setup.sh"
  exit 77
fi
if ! command -v python3 > /dev/null; then
  echo "SKIPPED: no python3 to read JSON"
  exit 77
fi
. "$(dirname "$0")/common.sh"

field() {
  python3 -c 'import json, sys
print(json.load(open(sys.argv[1], encoding="utf-8"))[sys.argv[2]])' "$1" "$2"
}

echo 'It rained all day. We stayed at home. The book was long and the tea was hot.' > "$work/text"
question='Where were we?'
program=$gistkv

# What is said of the backend.
does verify --table
backend=$(sed -n '3s/^| \([a-z]*\) .*/\1/p' "$work/out")
for verb in "compress $work/text -o $work/own.gkv" "generate Hello --max-tokens 2" \
  "ask $work/text Where? --max-tokens 2"; do
  # shellcheck disable=SC2086
  does $verb --model "$model" --threads 1 --json
  holds "${verb%% *}" "d['backend'] == '$backend' and d['threads'] == 1"
  holds "${verb%% *}" 'd["weight_types"][0] == "q4_1" and "f32" in d["weight_types"]'
  holds "${verb%% *}" 'len(d["instruction_set"]) > 0 and d["cache_type"] in ("f32", "bf16") and
    d["activation_type"] == "f32" and d["factor_type"] in ("f32", "bf16")'
done
does compress "$work/text" -o "$work/own.gkv" --model "$model" --threads 2 --json
holds 'two threads' 'd["threads"] == 2'
cp "$work/out" "$work/own"
own=$(field "$work/own" cache_type)
does inspect "$work/own.gkv" --json
holds inspect "d['cache_type'] == d['report']['cache_type'] == '$own'"
holds inspect 'd["kv_bytes_held"] == d["report"]["kv_bytes_held"]'

# row_size TYPE: bytes of 64 elements, a row of one head.
row_size() {
  case $1 in
    bf16 | f16) echo 128 ;;
    q8) echo 68 ;;
    *) echo 256 ;;
  esac
}

# agrees WHAT TYPE: the report in $work/out holds the rows of $work/own, in elements of TYPE.
agrees() {
  holds "$1" "d['cache_type'] == '$2'"
  for key in rows_held rows_full n_gist n_sentences; do
    holds "$1" "d['$key'] == $(field "$work/own" $key)"
  done
  size=$(row_size "$2")
  own_size=$(row_size "$own")
  for key in kv_bytes_row kv_bytes_held kv_bytes_full; do
    holds "$1" "d['$key'] * $own_size == $(field "$work/own" $key) * $size"
  done
}

# Every type of this program, and contexts of one type under another.
types=
for type in f32 bf16 f16 q8; do
  if "$gistkv" compress "$work/text" -o "$work/$type.gkv" --model "$model" --cache-type $type \
    --json > "$work/out" 2> "$work/err"; then
    checks=$((checks + 1))
    types="$types $type"
    agrees "compress to $type" $type
  else
    refuses 2 "cache-type $type is not part of this program (backend $backend), want " \
      compress "$work/text" -o "$work/no.gkv" --model "$model" --cache-type $type
  fi
done
case $types in *" $own"*) ;; *) wrong "own type $own is not among$types" ;; esac
# Two of them say it for all.
for from in "$own" q8; do
  does ask "$work/$from.gkv" "$question" --model "$model" --max-tokens 4 --json
  ! grep -q 'rows, which become' "$work/err" || wrong "a context of $from was converted"
  agrees "ask a context of $from" "$from"
  to=$own
  [ "$from" = q8 ] || to=q8
  does ask "$work/$from.gkv" "$question" --model "$model" --max-tokens 4 --cache-type "$to" --json
  says err "holds $from rows, which become $to (--cache-type)"
  agrees "ask a context of $from in $to" "$to"
done

# Contexts of the other programs.
for other in "$@"; do
  gistkv=$other
  does compress "$work/text" -o "$work/other.gkv" --model "$model" --json
  other_type=$(field "$work/out" cache_type)
  agrees "the context of $other" "$other_type"
  gistkv=$program
  does inspect "$work/other.gkv" --model "$model" --json
  holds "inspect a context of $other" "d['cache_type'] == '$other_type' and d['fits_model'] and
    d['kv_bytes_held'] == d['report']['kv_bytes_held']"
  does ask "$work/other.gkv" "$question" --model "$model" --max-tokens 4 --json
  become=$other_type
  case "$types " in
    *" $other_type "*) ;;
    *)
      become=$own
      says err "holds $other_type rows, which become $own: this program has no $other_type"
      ;;
  esac
  holds "ask a context of $other" "d['backend'] == '$backend'"
  agrees "ask a context of $other" "$become"
done
finish
