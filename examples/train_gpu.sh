#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# sh examples/train_gpu.sh FOLDER [--max-minutes M] [--results DIR] [--program P]: one slice of a training
# run out of one folder, for a machine that is lent for minutes and has no network. The folder holds
#   train.json          the config, its paths relative to the folder
#   the model's file    or its parts NAME.part-*, as `split -b 60m NAME NAME.part-` makes them
#   the texts           as .jsonl.zst a byte or so a token: smaller than any file of token numbers
#   gistkv-cuda         a release build; --program names another one
#   SHA256SUMS          if there: what whole files must be
# A slice ends with an atomic checkpoint behind the step in which M minutes have gone by (start included),
# and the next call goes on from it. --results copies what is worth keeping: the adapter, the log, and the
# checkpoint in parts of 15 MiB, which the next call takes from the folder where there is no whole one.
# Exit status: 0 the slice is done, else as the program's.
set -eu
fail() {
  echo "train_gpu.sh: $*" >&2
  exit 2
}
[ $# -ge 1 ] || fail "want FOLDER"
folder=$1
shift
minutes=0
results=
program=
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || fail "$1 wants a value"
  case $1 in
    --max-minutes) minutes=$2 ;;
    --results) results=$2 ;;
    --program) program=$2 ;;
    *) fail "no option $1" ;;
  esac
  shift 2
done
[ -d "$folder" ] || fail "no folder $folder"
[ -z "$results" ] || { mkdir -p "$results" && results=$(cd "$results" && pwd); }
case $program in '' | /*) ;; *) program=$PWD/$program ;; esac
cd "$folder"
[ -n "$program" ] || program=$PWD/gistkv-cuda
[ -x "$program" ] || [ ! -f "$program" ] || chmod +x "$program"
[ -x "$program" ] || fail "no program $program"
[ -f train.json ] || fail "no train.json in $folder"

# field NAME: the first string of that name in the config.
field() { tr '\n' ' ' < train.json | sed -n "s/^[^}]*\"$1\": *\"\([^\"]*\)\".*/\1/p"; }
model=$(field model)
output=$(field output)
[ -n "$model" ] && [ -n "$output" ] || fail "train.json has no model or no output"

# whole FILE: made of its parts if it is not there; never left half made.
whole() {
  [ ! -e "$1" ] && [ -e "$1.part-aa" ] || return 0
  mkdir -p "$(dirname "$1")"
  cat "$1".part-* > "$1.joining"
  mv "$1.joining" "$1"
}
whole "$model"
whole "$output/checkpoint.safetensors"
[ -e "$model" ] || fail "no $model, and no parts of it"
if [ -f SHA256SUMS ]; then
  sha256sum --check --ignore-missing --quiet SHA256SUMS || fail "a file is not what SHA256SUMS says"
fi

# CUDA's libraries come with it or with Python's packages, where the loader may not look.
for soname in $(ldd "$program" 2> /dev/null | sed -n 's/^[[:space:]]*\(lib[^ ]*\) => not found.*/\1/p'); do
  found=
  for place in "${CUDA_HOME:-/usr/local/cuda}"/lib64 /usr/local/cuda*/lib64 \
    /usr/local/cuda*/targets/*/lib \
    "$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2> /dev/null || true)"/*/lib; do
    [ ! -e "$place/$soname" ] || found=$place
  done
  [ -n "$found" ] || fail "$soname is nowhere: install it, or set CUDA_HOME"
  LD_LIBRARY_PATH=$found${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
done

set -- train sag --config train.json
[ "$minutes" = 0 ] || set -- "$@" --max-minutes "$minutes"
[ ! -e "$output/checkpoint.safetensors" ] || set -- "$@" --resume
status=0
"$program" "$@" || status=$?

# Also after a failure: the last checkpoint is whole.
if [ -n "$results" ]; then
  rm -f "$results"/checkpoint.safetensors.part-*
  for file in adapter.safetensors log.csv; do
    [ ! -e "$output/$file" ] || cp "$output/$file" "$results/"
  done
  [ ! -e "$output/checkpoint.safetensors" ] ||
    split -b 15m "$output/checkpoint.safetensors" "$results/checkpoint.safetensors.part-"
fi
exit $status
