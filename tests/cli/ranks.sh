#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# ranks.sh PROGRAM: several processes that mpirun starts train one model and compress one corpus
# (environment variables GISTKV_DATA_DIR and GISTKV_MPIEXEC, which is empty where the program was
# built without MPI).
set -eu
gistkv=$1
. "$(dirname "$0")/common.sh"
mpirun=${GISTKV_MPIEXEC:-}
if [ -z "$mpirun" ]; then
  export OMPI_COMM_WORLD_SIZE=2
  refuses 2 'built without MPI' segment "$0"
  unset OMPI_COMM_WORLD_SIZE
  # Of PMIx one hears a rank, of srun how many there are.
  export PMIX_RANK=1 SLURM_STEP_NUM_TASKS=2
  refuses 2 'built without MPI' segment "$0"
  export PMIX_RANK=0 SLURM_STEP_NUM_TASKS=1
  does segment "$0"
  unset PMIX_RANK SLURM_STEP_NUM_TASKS
  [ $failed = 0 ] || finish
  echo 'SKIPPED: gistkv::mpi is off'
  exit 77
fi
case $("$mpirun" --version 2> /dev/null) in
  *'Open MPI'* | *OpenRTE*) ;;
  *)
    echo "SKIPPED: $mpirun is not that of Open MPI, whose options and messages are looked at"
    exit 77
    ;;
esac
make_tiny_model "$work/model"

# launch N ARGUMENT...: N processes on however few cores; stdout, stderr and status as of `does`.
launch() {
  n=$1
  shift
  status=0
  "$mpirun" --allow-run-as-root --oversubscribe --bind-to none \
    --mca btl_vader_single_copy_mechanism none -n "$n" "$gistkv" "$@" \
    > "$work/out" 2> "$work/err" || status=$?
}
# launched N ARGUMENT...: and it succeeds.
launched() {
  checks=$((checks + 1))
  launch "$@"
  [ "$status" = 0 ] || wrong "mpirun -n $*: status $status: $(cat "$work/err")"
}
# told WHAT: of what the program said, notes aside, one line is left, and it matches. The rest of
# stderr is mpirun's own.
told() {
  checks=$((checks + 1))
  grep '^gistkv: ' "$work/err" | grep -v '^gistkv: note: ' > "$work/told" || true
  [ "$(wc -l < "$work/told")" = 1 ] || wrong "want one line: $(cat "$work/err")"
  grep -q -e "$1" "$work/told" || wrong "want '$1': $(cat "$work/told")"
}

i=0
while [ $i -lt 30 ]; do
  echo "{\"text\": \"Ship $i left port. It had $((i * 7)) barrels! Who sent it? Nobody said. The wind was good.\"}"
  i=$((i + 1))
done > "$work/docs.jsonl"

# config BATCH OUTPUT STAGE...: $work/c.json
config() {
  batch=$1
  output=$2
  stages=''
  shift 2
  for stage in "$@"; do
    stages="$stages${stages:+, }{\"sequence\": 96, \"batch\": $batch, \"micro_batch\": 1, \"warm_up\": 0, $stage}"
  done
  cat > "$work/c.json" << END
{"model": "$work/model", "output": "$output", "seed": 7, "gists": 2, "recent": 1,
 "data": {"files": ["$work/docs.jsonl"]}, "lora": {"rank": 4, "dropout": 0.1},
 "save_every": 1, "validate_every": 2, "validation_windows": 3, "stages": [$stages]}
END
}
gists='"train": "gists", "steps": 3, "learning_rate": 0.01, "floor": 0.001'
lora='"train": "lora", "steps": 4, "learning_rate": 0.001, "floor": 0.001'
all='"train": "all", "steps": 3, "learning_rate": 0.00003, "floor": 0.00001'

# Two processes of batch 2 are one of batch 4, in every stage.
config 4 "$work/one" "$gists" "$lora" "$all"
does train sag --config "$work/c.json" --threads 1 --json
config 2 "$work/two" "$gists" "$lora" "$all"
launched 2 train sag --config "$work/c.json" --threads 1 --json
holds 'ranks' 'd["ranks"] == 2 and d["stages"] == 3'
config 2 "$work/half" "$gists" "$lora" "$all"
does train sag --config "$work/c.json" --threads 1
checks=$((checks + 1))
does compress "$0" -o "$work/x.gkv" --model "$work/model" --past-context --json
python3 - "$work" << 'END' || wrong 'two processes and one with the doubled batch differ'
import array, csv, json, math, struct, sys
work = sys.argv[1]

def log(run):
    return list(csv.DictReader(open(f"{work}/{run}/log.csv")))

def tensors(path):
    data = open(path, "rb").read()
    n = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    return {name: array.array("f", data[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]])
            for name, t in header.items()}

good = True
def check(what, holds):
    global good
    if not holds:
        print("WRONG:", what)
        good = False

# The sums are the same but for their order, and ten steps let that grow. Where factors round to
# bf16, one that is next to a boundary falls on either side of it, 2^-8 apart: losses are means over
# more than a hundred targets, a gradient has elements that two such factors decide.
factor = json.load(open(f"{work}/out"))["factor_type"]
limit = {"f32": {"loss": 1e-5, "gradient_norm": 1e-5, "weight": 1e-4},
         "bf16": {"loss": 2**-10, "gradient_norm": 2**-7, "weight": 2**-8}}[factor]
limit["validation"] = limit["rate"] = limit["loss"]
print("factors are", factor)
worst = dict.fromkeys(("loss", "validation", "gradient_norm", "rate"), 0.0)
one, two, half = log("one"), log("two"), log("half")
check("ten steps each", len(one) == len(two) == len(half) == 10)
for a, b in zip(one, two):
    check("stage, step and tokens", [a[k] for k in ("stage", "step", "tokens")] ==
          [b[k] for k in ("stage", "step", "tokens")])
    for key in worst:
        if a[key] or b[key]:
            off = abs(float(a[key]) / float(b[key]) - 1)
            worst[key] = max(worst[key], off)
            check(f"{key} of stage {a['stage']}, step {a['step']}: {a[key]}, {b[key]}", off < limit[key])
print("largest relative differences:", {key: f"{off:.1e}" for key, off in worst.items()})
off = max(abs(float(a["gradient_norm"]) / float(b["gradient_norm"]) - 1) for a, b in zip(one, half))
print(f"and to half the batch: {off:.1e}")
check("half the batch gives other gradients", off > 5 * limit["gradient_norm"])
a, b = (tensors(f"{work}/{run}/checkpoint.safetensors") for run in ("one", "two"))
check("names of arrays", a.keys() == b.keys() and len(a) > 30)
norm = lambda x: math.sqrt(sum(v * v for v in x))
worst = max(norm([x - y for x, y in zip(a[k], b[k])]) / norm(a[k]) for k in a
            if not k.endswith((".first", ".second")))
print(f"largest relative distance of a weight: {worst:.1e}")
check("weights", worst < limit["weight"])
sys.exit(0 if good else 1)
END

# says_of_itself FILE TEXT: one of the strings in a file of /proc is TEXT.
says_of_itself() {
  { tr '\0' '\n' < "$1" | grep -qx "$2"; } 2> /dev/null
}
# A process that is lost ends the job; the checkpoint of the rest is good.
for victim in 1 0; do
  rm -rf "$work/run"
  config 2 "$work/run" '"train": "lora", "schedule": "constant", "steps": 100000, "learning_rate": 0.001'
  launch 2 train sag --config "$work/c.json" --threads 1 &
  job=$!
  tries=0
  pid=
  while [ $tries -lt 3000 ]; do
    tries=$((tries + 1))
    sleep 0.1
    kill -0 $job 2> /dev/null || break
    [ "$(wc -l 2> /dev/null < "$work/run/log.csv" || echo 0)" -ge 3 ] || continue
    for process in /proc/[0-9]*; do
      says_of_itself "$process/cmdline" "$work/c.json" || continue
      says_of_itself "$process/environ" "OMPI_COMM_WORLD_RANK=$victim" || continue
      pid=${process#/proc/}
    done
    [ -z "$pid" ] || break
  done
  checks=$((checks + 1))
  [ -n "$pid" ] || wrong "rank $victim was not found: $(cat "$work/err")"
  [ -z "$pid" ] || kill -KILL "$pid"
  wait $job || true
  told "process that was lost; .*/checkpoint.safetensors is whole"
  step=$(tail -n 1 "$work/run/log.csv" | cut -d, -f2)
  config 2 "$work/run" "\"train\": \"lora\", \"schedule\": \"constant\", \"steps\": $((step + 2)), \"learning_rate\": 0.001"
  launched 2 train sag --config "$work/c.json" --threads 1 --resume --json
  [ "$(sed 1d "$work/run/log.csv" | cut -d, -f2 | tr '\n' ' ')" = "$(seq -s ' ' $((step + 2))) " ] ||
    wrong "steps behind a lost process: $(cut -d, -f2 "$work/run/log.csv" | tr '\n' ' ')"
done

# What every process finds wrong is said once, and what one of them does, too.
config 2 "$work/run" '"train": "everything"'
launch 2 train sag --config "$work/c.json"
[ "$status" = 1 ] || wrong "a bad config: status $status"
told "field 'train' is 'everything'"
launch 2 segment "$0"
[ "$status" = 2 ] || wrong "segment on two processes: status $status"
told 'segment runs in one process'
config 2 "$work/run" "$all"
rm "$work/run/checkpoint.safetensors"
mkdir "$work/run/checkpoint.safetensors"
launch 2 train sag --config "$work/c.json" --threads 1
[ "$status" = 1 ] || wrong "a checkpoint that rank 0 cannot write: status $status"
told 'checkpoint.safetensors'

# One compressed context a document, the same from one and from two processes.
set -- compress --corpus "$work/docs.jsonl" --model "$work/model" --gists 2 --recent 1 --threads 1
does "$@" -o "$work/by_one" --json
holds 'corpus' 'd["documents"] == 30 and d["ranks"] == 1 and d["n_gist"] == 2 * d["n_sentences"] > 200
  and d["ratio_bytes"] > 1'
grep -v '"ranks"\|second\|rss\|"output"' "$work/out" > "$work/report"
launched 2 "$@" -o "$work/by_two" --json
holds 'corpus' 'd["ranks"] == 2'
grep -v '"ranks"\|second\|rss\|"output"' "$work/out" | cmp - "$work/report" ||
  wrong "totals: $(cat "$work/out")"
[ "$(ls "$work/by_one" | wc -l)" = 30 ] || wrong "files: $(ls "$work/by_one")"
checks=$((checks + 1))
diff -r "$work/by_one" "$work/by_two" || wrong 'two processes write other files than one'
does inspect "$work/by_two/000030.gkv" --model "$work/model" --json
holds 'inspect' 'd["checksum"] == "good" and d["fits_model"]'
does ask "$work/by_two/000002.gkv" 'Who?' --model "$work/model" --max-tokens 2 --json
holds 'ask' 'd["n_gist"] == 10 and len(d["answers"]) == 1'

sed -i '4s/.*/{"text": ""}/' "$work/docs.jsonl"
launch 2 "$@" -o "$work/by_two"
[ "$status" = 1 ] || wrong "an empty document: status $status"
told 'docs.jsonl: document 4: the text is empty'
sed -i '4s/.*/{"words": ""}/' "$work/docs.jsonl"
launch 1 "$@" -o "$work/by_one"
[ "$status" = 1 ] || wrong "a line without a text: status $status"
told "docs.jsonl: line 4: field 'text'"
refuses 2 'want a .jsonl' compress --corpus "$work/model" -o "$work/x" --model "$work/model"
refuses 2 'want one of them' compress "$0" --corpus "$work/docs.jsonl" -o "$work/x" --model "$work/model"
refuses 2 'FILE is missing' compress -o "$work/x" --model "$work/model"
finish
