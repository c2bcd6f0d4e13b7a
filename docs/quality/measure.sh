#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# measure.sh PROGRAM MODEL DATA RECORDS [NAME...]: measures the tasks of docs/quality.md, or the results
# named, with the adapter smollm2-135m-instruct-gists: NAME.json in this folder, for build.py.
#
# DATA holds pg19/*.txt, squad/dev_1_24.jsonl, mmlu/ and kv/. RECORDS is a folder for a record a sample
# and method: a run that was ended goes on where it was. Hours on two cores in all, those of 4,096 tokens
# most of them. `speed` wants the machine to itself.
set -eu
[ $# -ge 4 ] || { sed -n '5,10s/^# //p' "$0" >&2; exit 2; }
program=$1 model=$2 data=$3 records=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
adapter=$here/../../examples/adapters/smollm2-135m-instruct-gists/adapter.safetensors
mkdir -p "$records"

# Short sentences, none of them raw: the layout for what is asked for word for word.
carried='--recent 0 --segmenter paper,before,min_bytes:60,max_length:20'
all=base,full,sag,recent,window,uniform,separators,evict
names=${*:-ppl-2048 ppl-2048-carried ppl-2048-untrained needle-1024-words needle-1024-numbers
  needle-4096-words needle-4096-numbers qa-squad mmlu kv-75 compression-2048 types-2048-f32 types-2048-bf16
  types-2048-f16 types-2048-q8 types-needle-512-f32 types-needle-512-bf16 types-needle-512-f16
  types-needle-512-q8 speed-2048}

# measure NAME ARGUMENTS...
measure() {
  name=$1
  shift
  echo "$name" >&2
  "$program" eval "$@" --model "$model" --json > "$records/$name.json"
  mv "$records/$name.json" "$here/$name.json"
}
kept() { echo "--results $records/$1.jsonl"; }
# needle NAME VALUES LENGTH METHODS ARGUMENTS...
needle() {
  name=$1 values=$2 length=$3 methods=$4
  shift 4
  # shellcheck disable=SC2086
  measure "$name" needle --method "$methods" --values "$values" --lines 4 --data "$data/pg19" --depths 3 \
    --length "$length" $carried --adapter "$adapter" $(kept "$name") "$@"
}

# shellcheck disable=SC2046,SC2086
for name in $names; do
  case $name in
    ppl-2048)
      measure $name ppl --method $all --data "$data/pg19" --limit 30 --length 2048 --positions 8 \
        --adapter "$adapter" $(kept $name) ;;
    ppl-2048-carried)
      measure $name ppl --method base,full,sag,recent,window --data "$data/pg19" --limit 10 --length 2048 \
        --positions 8 $carried --adapter "$adapter" $(kept $name) ;;
    ppl-2048-untrained)
      measure $name ppl --method full,sag,recent,window,uniform --data "$data/pg19" --limit 10 --length 2048 \
        --positions 8 --recent 3 --segmenter paper,before,min_bytes:160,max_length:80 $(kept $name) ;;
    needle-*-words) length=${name#needle-} && needle $name words "${length%-*}" full,sag,window --limit 67 ;;
    needle-*-numbers) length=${name#needle-} && needle $name number "${length%-*}" full,sag,window --limit 67 ;;
    qa-squad)
      measure $name qa --method base,full,sag,window --data "$data/squad/dev_1_24.jsonl" --format squad \
        --contexts 1 --limit 100 $carried --adapter "$adapter" $(kept $name) ;;
    mmlu)
      measure $name mmlu --method base,full,sag,window,uniform,separators,evict --data "$data/mmlu" --shots 5 \
        --limit 40 --adapter "$adapter" $(kept $name) ;;
    kv-75)
      measure $name kv --method full,sag,window,evict --data "$data/kv/kv-retrieval-75_keys.jsonl" --limit 10 \
        --past-context --adapter "$adapter" $(kept $name) ;;
    compression-2048)
      measure $name compression --method sag,uniform,full --data "$data/pg19" --limit 30 --length 2048 \
        --adapter "$adapter" ;;
    types-2048-*)
      measure $name ppl --method full,sag --data "$data/pg19" --limit 3 --length 2048 --adapter "$adapter" \
        --cache-type "${name##*-}" $(kept $name) ;;
    types-needle-512-*)
      needle $name words 512 full,sag,window --limit 34 --cache-type "${name##*-}" ;;
    speed-2048)
      "${program%/*}/benchmarks/peers/gistkv_bench_ceilings" 2 > "$records/ceilings.json"
      measure $name speed --method full,sag,window,uniform --data "$data/pg19" --limit 4 --length 2048 \
        --adapter "$adapter" --ceilings "$records/ceilings.json" ;;
    *) echo "measure.sh: no result is named '$name'" >&2; exit 2 ;;
  esac
done
