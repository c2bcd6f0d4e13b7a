#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# gpu.sh [--quick]: all that needs a GPU, in one call: conformance on three element types, a model step by
# step (fused calls, graphs, caches of q8), one in training (gradients, 20 losses, the same bits twice, documents
# together and apart, the optimiser over many tensors), the goldens, the example on a borrowed stream, gradients
# added up by NCCL (on two GPUs, if there are two and MPI), and compute-sanitizer's checks of memory and races.
# Needs nvcc; what else is missing is skipped with a reason.
# JSON goes to gpu_tests.json in $OUT, or in build/gpu; logs beside it.
# Environment: NVCC, GISTKV_GOLDEN_DIR, GISTKV_MODEL, EIGEN (include directory), NCCL (a folder with include and
# lib)
set -u
cd "$(dirname "$0")/.."
build=build/gpu
out=${OUT:-$build}
mkdir -p "$build" "$out"
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
[ -x "$nvcc" ] || {
  echo "SKIPPED: no nvcc"
  exit 77
}
results=
failed=0
# record NAME STATUS REASON
record() {
  echo "$1: $2${3:+ ($3)}"
  results="$results${results:+,
 }{\"test\": \"$1\", \"status\": \"$2\", \"reason\": \"$3\"}"
  [ "$2" != failed ] || failed=1
}
# run NAME COMMAND...
run() {
  name=$1
  shift
  status=0
  "$@" > "$out/$name.log" 2>&1 || status=$?
  case $status in
    0) record "$name" passed "" ;;
    77) record "$name" skipped "$(grep -m 1 SKIPPED "$out/$name.log" | tr -d '"')" ;;
    *)
      tail -n 25 "$out/$name.log"
      record "$name" failed "exit status $status"
      ;;
  esac
}
flags="-std=c++20 -O2 --expt-relaxed-constexpr -lineinfo -I include -I tests -I backends/cuda/include
  -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a"

# One compiler for each source, at the same time.
pids=
for source in tests/cuda/gpu/*.cu examples/07_borrow_a_stream.cu; do
  # shellcheck disable=SC2086
  "$nvcc" $flags -c "$source" -o "$build/$(basename "$source" .cu).o" > "$out/compile.$(basename "$source" .cu).log" 2>&1 &
  pids="$pids $!"
done
compiled=passed
for pid in $pids; do wait "$pid" || compiled=failed; done
record compile $compiled ""
[ $compiled = passed ] || cat "$out"/compile.*.log
"$nvcc" "$build"/main.o "$build"/conformance_*.o "$build"/steps.o "$build"/training.o -o "$build/gistkv_test_gpu" -lcublasLt &&
  "$nvcc" "$build/07_borrow_a_stream.o" -o "$build/07_borrow_a_stream" -lcublasLt || record link failed ""

run example "$build/07_borrow_a_stream"
for type in f32 bf16 f16; do run "conformance_$type" "$build/gistkv_test_gpu" "$@" $type; done
run steps "$build/gistkv_test_gpu" steps
run training "$build/gistkv_test_gpu" training
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    run "$tool" timeout 180 "$sanitizer" --tool $tool --error-exitcode 9 "$build/gistkv_test_gpu" --quick bf16 steps training
  done
else
  record sanitizer skipped "no compute-sanitizer"
fi

# NCCL beside the toolkit or where NCCL says; MPI by its own compiler, if there is a GPU for a second process.
nccl=${NCCL:-$(dirname "$(dirname "$nvcc")")}
library=$(ls "$nccl"/lib/libnccl.so "$nccl"/lib64/libnccl.so "$nccl"/lib/libnccl.so.2 2> /dev/null | head -n 1)
if [ -z "$library" ] || [ ! -f "$nccl/include/nccl.h" ]; then
  record nccl skipped "no NCCL (PyPI: nvidia-nccl-cu13; NCCL names its folder)"
else
  mpi=
  launch=
  if [ "$(nvidia-smi -L 2> /dev/null | wc -l)" -ge 2 ] && command -v mpirun > /dev/null && command -v mpicxx > /dev/null; then
    mpi="-DGISTKV_TEST_MPI -I backends/mpi/include $(mpicxx --showme:incdirs | sed 's/[^ ]*/-I &/g')
      $(mpicxx --showme:libdirs | sed 's/[^ ]*/-L &/g') $(mpicxx --showme:libs | sed 's/[^ ]*/-l&/g')"
    launch="mpirun --allow-run-as-root -n 2"
  fi
  # shellcheck disable=SC2086
  if "$nvcc" $flags -I "$nccl/include" -I backends/nccl/include tests/cuda/nccl/sum.cu -o "$build/gistkv_test_nccl" \
    "$library" -Xlinker "-rpath=$(dirname "$library")" $mpi -lcublasLt > "$out/nccl.compile.log" 2>&1; then
    run nccl $launch "$build/gistkv_test_nccl"
  else
    tail -n 25 "$out/nccl.compile.log"
    record nccl failed "it does not compile"
  fi
fi

eigen=${EIGEN:-/usr/include/eigen3}
if ! printf '#include <doctest/doctest.h>\n#include <nlohmann/json.hpp>\n#include <Eigen/Core>\n' |
  g++ -fsyntax-only -x c++ -I "$eigen" - 2> /dev/null; then
  record golden skipped "doctest, nlohmann_json or Eigen is not installed"
elif [ ! -d "${GISTKV_GOLDEN_DIR:-../shared/golden}" ]; then
  record golden skipped "no goldens (GISTKV_GOLDEN_DIR)"
else
  definitions="-DGISTKV_TEST_DATA_DIR=\"../shared/data\" -DGISTKV_TEST_GOLDEN_DIR=\"../shared/golden\"
    -DGISTKV_TEST_MODEL=\"${XDG_CACHE_HOME:-$HOME/.cache}/gistkv/SmolLM2-135M-Instruct.Q4_1.gguf\""
  # shellcheck disable=SC2086
  if "$nvcc" $flags $definitions -I backends/eigen/include -I "$eigen" tests/main.cpp \
    tests/cuda/golden/golden.cu -o "$build/gistkv_test_gpu_golden" -lcublasLt > "$out/golden.compile.log" 2>&1; then
    run golden "$build/gistkv_test_gpu_golden"
  else
    tail -n 25 "$out/golden.compile.log"
    record golden failed "it does not compile"
  fi
fi
printf '{"command": "tests/gpu.sh", "device": "%s", "results": [\n %s\n]}\n' \
  "$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1)" "$results" > "$out/gpu_tests.json"
echo "$out/gpu_tests.json"
exit $failed
