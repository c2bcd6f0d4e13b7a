#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# What the tests of the program share; read by them with `.` after `set -eu` and `gistkv=PROGRAM`.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
checks=0

wrong() {
  echo "WRONG: $*"
  failed=1
}

# refuses STATUS PATTERN ARGUMENT...: the program ends with STATUS, writes nothing to stdout and one
# line to stderr, which begins with its name and matches PATTERN. Reads stdin.
refuses() {
  want=$1
  pattern=$2
  shift 2
  checks=$((checks + 1))
  status=0
  "$gistkv" "$@" > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = "$want" ] || wrong "gistkv $*: status $status, want $want: $(cat "$work/err")"
  [ ! -s "$work/out" ] || wrong "gistkv $*: stdout is not empty: $(head -c 200 "$work/out")"
  [ "$(wc -l < "$work/err")" = 1 ] || wrong "gistkv $*: want one line: $(cat "$work/err")"
  grep -q '^gistkv: ' "$work/err" || wrong "gistkv $*: no name in front: $(cat "$work/err")"
  grep -q -e "$pattern" "$work/err" || wrong "gistkv $*: want '$pattern': $(cat "$work/err")"
}

# does ARGUMENT...: the program succeeds; stdout is in $work/out, stderr in $work/err.
does() {
  checks=$((checks + 1))
  status=0
  "$gistkv" "$@" > "$work/out" 2> "$work/err" || status=$?
  [ "$status" = 0 ] || wrong "gistkv $*: status $status: $(cat "$work/err")"
}

# kill_at LINES FILE ARGUMENT...: starts the program and kills it without warning as soon as FILE has
# LINES lines, or within a minute.
kill_at() {
  lines=$1
  watched=$2
  shift 2
  "$gistkv" "$@" > /dev/null 2>&1 &
  victim=$!
  tries=0
  while [ $tries -lt 6000 ]; do
    [ "$(wc -l 2> /dev/null < "$watched" || echo 0)" -ge "$lines" ] && break
    kill -0 $victim 2> /dev/null || break
    sleep 0.01
    tries=$((tries + 1))
  done
  kill -KILL $victim 2> /dev/null || true
  wait $victim 2> /dev/null || true
}

# holds WHAT EXPRESSION: the Python expression is true of `d`, the JSON document in $work/out.
holds() {
  checks=$((checks + 1))
  if ! command -v python3 > /dev/null; then
    [ -n "${said_no_python:-}" ] || echo "no python3: the content of JSON is not looked at"
    said_no_python=1
    return 0
  fi
  python3 -c 'import json, sys
d = json.load(open(sys.argv[1], encoding="utf-8"))
sys.exit(0 if eval("(" + sys.argv[2] + ")") else 1)' "$work/out" "$2" 2> "$work/err" ||
    wrong "$1: $2: $(head -c 300 "$work/out") $(tail -n 1 "$work/err")"
}

says() {
  checks=$((checks + 1))
  grep -q -e "$2" "$work/$1" || wrong "$1 has no '$2': $(head -c 300 "$work/$1")"
}

finish() {
  echo "$checks checks"
  exit $failed
}

# make_tiny_model FOLDER: a trained model of 260 thousand weights (environment variable GISTKV_DATA_DIR);
# without its checkpoint the script ends as skipped.
make_tiny_model() {
  checkpoint=${GISTKV_DATA_DIR:-}/weights/stories260K.bin
  for needed in python3 "$checkpoint"; do
    if ! [ -e "$needed" ] && ! command -v "$needed" > /dev/null; then
      echo "SKIPPED: $needed is absent"
      exit 77
    fi
  done
  python3 "$(dirname "$0")/tiny_model.py" "$checkpoint" "$1"
}
