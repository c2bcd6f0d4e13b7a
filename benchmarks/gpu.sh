#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# gpu.sh [--quick]: attention on this machine's GPU, side by side with what else there is, whole models
# step by step, and steps of training, in one run. Needs nvcc, or the programs already built for this machine as
# build/gpu/attention, build/gpu/steps and build/gpu/training. JSON goes to gpu_attention.json, gpu_steps.json
# and gpu_training.json in $OUT, or in benchmarks/results; the summary to stdout.
# Environment: NVCC, OUT
set -eu
cd "$(dirname "$0")/.."
build=build/gpu
out=${OUT:-benchmarks/results}
mkdir -p "$build" "$out"
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ -x "$nvcc" ]; then
  pids=
  for name in attention steps training; do
    "$nvcc" -std=c++20 -O3 --expt-relaxed-constexpr -I include -I backends/cuda/include \
      -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
      benchmarks/gpu/$name.cu -o "$build/$name" -lcublasLt &
    pids="$pids $!"
  done
  for pid in $pids; do wait "$pid"; done
fi
for name in attention steps training; do
  [ -x "$build/$name" ] || {
    echo "SKIPPED: no nvcc, and no $build/$name"
    exit 77
  }
done

# ours NAME: a program's lines; without a device it says so and there is nothing to compare.
ours() {
  name=$1
  shift
  status=0
  "$build/$name" "$@" > "$build/$name.jsonl" || status=$?
  [ $status = 0 ] || {
    cat "$build/$name.jsonl"
    exit $status
  }
}
# collect FILE LINES...: one JSON file, and its rows to stdout.
collect() {
  python3 - "$@" << 'PYTHON'
import json, subprocess, sys
lines = [json.loads(l) for path in sys.argv[2:] for l in open(path)]
try:
    clocks = subprocess.run(["nvidia-smi", "--query-gpu=name,clocks.sm,clocks.mem,driver_version",
                             "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
except OSError:
    clocks = ""
json.dump({"command": "benchmarks/gpu.sh", "machine": clocks, "results": lines},
          open(sys.argv[1], "w"), indent=1)
for l in lines:
    if l["what"] == "skipped":
        print("skipped:", l.get("peer", l.get("path", "")), l["reason"])
    elif "model" in l:
        floor = f"  {l['over_floor']:.2f} of its floor" if "over_floor" in l else ""
        if "tokens_per_s" in l:
            floor = f"  {l['tokens_per_s']:.0f} tokens/s"
        print(f"{l['what']:10} {l['model']:5} {l['path']:24} n {l['n']:6} batch {l['batch']:2} "
              f"{l['ms']:10.3f} ms{floor}")
    elif "ms" in l:
        rate = [f"{l[u]:8.1f} {u}" for u in ("useful_tflop_s", "kv_gb_s") if u in l][0]
        error = "" if l.get("error") is None else f"  error {l['error']:.1e}"
        print(f"{l['what']:8} {l['path']:20} hd {l['head_dim']:3} N_g {l['n_gist']} n {l['n']:6} "
              f"batch {l['batch']:2} {l['ms']:10.4f} ms {rate}{error}")
    else:
        print(l)
print(sys.argv[1])
PYTHON
}

ours attention "$@"
python3 benchmarks/gpu/peers.py "$@" > "$build/peers.jsonl" ||
  echo '{"what": "skipped", "peer": "all", "reason": "peers.py failed"}' >> "$build/peers.jsonl"
collect "$out/gpu_attention.json" "$build/attention.jsonl" "$build/peers.jsonl"
ours steps "$@"
collect "$out/gpu_steps.json" "$build/steps.jsonl"
ours training "$@"
collect "$out/gpu_training.json" "$build/training.jsonl"
