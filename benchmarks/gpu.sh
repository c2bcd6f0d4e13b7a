#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# gpu.sh [--quick]: attention on this machine's GPU, side by side with what else there is, in one run. Needs
# nvcc, or the program already built for this machine as build/gpu/attention. JSON goes to gpu_attention.json
# in $OUT, or in benchmarks/results; the summary to stdout.
set -eu
cd "$(dirname "$0")/.."
build=build/gpu
out=${OUT:-benchmarks/results}
mkdir -p "$build" "$out"
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if [ -x "$nvcc" ]; then
  "$nvcc" -std=c++20 -O3 --expt-relaxed-constexpr -I include -I backends/cuda/include \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
    benchmarks/gpu/attention.cu -o "$build/attention" -lcublasLt
fi
[ -x "$build/attention" ] || {
  echo "SKIPPED: no nvcc, and no $build/attention"
  exit 77
}
status=0
"$build/attention" "$@" > "$build/ours.jsonl" || status=$?
[ $status = 0 ] || {
  cat "$build/ours.jsonl"
  exit $status
}
python3 benchmarks/gpu/peers.py "$@" > "$build/peers.jsonl" ||
  echo '{"what": "skipped", "peer": "all", "reason": "peers.py failed"}' >> "$build/peers.jsonl"
python3 - "$build/ours.jsonl" "$build/peers.jsonl" "$out/gpu_attention.json" << 'PYTHON'
import json, subprocess, sys
lines = [json.loads(l) for path in sys.argv[1:3] for l in open(path)]
try:
    clocks = subprocess.run(["nvidia-smi", "--query-gpu=name,clocks.sm,clocks.mem,driver_version",
                             "--format=csv,noheader"], capture_output=True, text=True).stdout.strip()
except OSError:
    clocks = ""
json.dump({"command": "benchmarks/gpu.sh", "machine": clocks, "results": lines},
          open(sys.argv[3], "w"), indent=1)
for l in lines:
    if l["what"] == "skipped":
        print("skipped:", l.get("peer", ""), l["reason"])
    elif "ms" in l:
        rate = [f"{l[u]:8.1f} {u}" for u in ("useful_tflop_s", "kv_gb_s") if u in l][0]
        error = "" if l.get("error") is None else f"  error {l['error']:.1e}"
        print(f"{l['what']:8} {l['path']:20} hd {l['head_dim']:3} N_g {l['n_gist']} n {l['n']:6} "
              f"batch {l['batch']:2} {l['ms']:10.4f} ms {rate}{error}")
    else:
        print(l)
print(sys.argv[3])
PYTHON
