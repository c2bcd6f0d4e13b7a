#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# inspect.sh: what the compiler made of the kernels that matter for sm_80 and sm_90a. No register is spilled,
# none of wgmma's products is serialised, registers are within budget, and the instructions that the
# kernels are written for are there: in PTX, and in machine code where cuobjdump is (CUOBJDUMP, PATH, or
# beside nvcc), with nvdisasm beside it or in PATH (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm).
# Environment: NVCC (empty: skipped) SOURCE SCRATCH
set -eu

if [ -z "$NVCC" ]; then
  echo "SKIPPED: gistkv::cuda is off"
  exit 77
fi
work=$SCRATCH/cuda_code
mkdir -p "$work"
for candidate in "${CUOBJDUMP:-}" "$(dirname "$NVCC")/cuobjdump" cuobjdump; do
  [ -n "$candidate" ] && cuobjdump=$(command -v "$candidate") && break
  cuobjdump=
done
PATH=${cuobjdump:+$(dirname "$cuobjdump"):}$PATH
command -v nvdisasm > /dev/null || cuobjdump=
failed=0
fail() {
  echo "$1"
  failed=1
}

# budget NAME: registers of a thread at most; of wgmma kernels at entry, before setmaxnreg, exactly: what
# warpgroups give back and take adds up to it (wgmma_shape::entry_registers).
budget() {
  case $1 in
    *attend_wgmma_kernel*shapeILi64E*) echo 128 ;;
    *attend_wgmma_kernel*) echo 168 ;;
    *) echo 255 ;;
  esac
}
# has KERNEL INSTRUCTION FILE: the kernel's part of a listing names the instruction.
has() {
  awk -v kernel="$1" -v what="$2" '
    /^\.visible \.entry|^\.weak \.entry|Function :/ { inside = index($0, kernel) > 0 }
    inside && index($0, what) { found = 1 }
    END { exit !found }' "$3"
}

for architecture in 80 90a; do
  base=$work/$architecture
  flags="-std=c++20 -O3 --expt-relaxed-constexpr -I $SOURCE/include -I $SOURCE/backends/cuda/include
    -gencode arch=compute_$architecture,code=sm_$architecture"
  # shellcheck disable=SC2086
  "$NVCC" $flags -Xptxas -v -cubin -o "$base.cubin" "$SOURCE/tests/cuda/code/kernels.cu" > "$base.log" 2>&1 || {
    cat "$base.log"
    exit 1
  }
  # shellcheck disable=SC2086
  "$NVCC" $flags -ptx -o "$base.ptx" "$SOURCE/tests/cuda/code/kernels.cu"
  sass=
  if [ -n "$cuobjdump" ]; then
    sass=$base.sass
    "$cuobjdump" -sass "$base.cubin" > "$sass"
  fi

  ! grep -e 'Potential Performance Loss' -e 'C75[0-9][0-9]' "$base.log" || fail "sm_$architecture: see above"
  # Lines of ptxas: a kernel's name, then its stack, then its registers.
  awk '/Compiling entry function/ { name = $7 }
    /spill stores/ { stack = $1; spilled = $5 }
    /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); print name, substr($0, RSTART + 5, RLENGTH - 5), stack, spilled }' \
    "$base.log" | tr -d "'" | sort -u > "$base.kernels"
  n=0
  while read -r name registers stack spilled; do
    case $name in
      *attend_tile_kernel*) short=tile wanted_ptx='mma.sync ldmatrix cp.async' wanted_sass='HMMA.16816 LDSM.16.MT88 LDGSTS' ;;
      *attend_split_kernel*level_shape*) short='split q8' wanted_ptx='mma.sync cp.async' wanted_sass='HMMA.16816 LDGSTS' ;;
      *attend_split_kernel*) short=split wanted_ptx='mma.sync ldmatrix cp.async' wanted_sass='HMMA.16816 LDSM.16.MT88 LDGSTS' ;;
      *attend_wgmma_kernel*)
        [ $architecture = 90a ] || continue # An empty body: never launched there.
        short=wgmma wanted_ptx='wgmma.mma_async cp.async.bulk.tensor setmaxnreg' wanted_sass='HGMMA UTMALDG USETMAXREG'
        ;;
      *backward_*_kernel*) short=backward wanted_ptx='mma.sync ldmatrix cp.async' wanted_sass='HMMA.16816 LDSM.16.MT88 LDGSTS' ;;
      *cross_entropy_work*) short=loss wanted_ptx='ld.global.v4 st.global.v4' wanted_sass='LDG.E.128 STG.E.128' ;;
      *activation_backward_work*) short=activation wanted_ptx='ld.global.v4 st.global.v4' wanted_sass='LDG.E.128 STG.E.128' ;;
      *project_kernel*q8*) short='project q8' wanted_ptx='mma.sync ld.global.nc.v4' wanted_sass='HMMA.16816 LDG.E.128' ;;
      *project_kernel*) short=project wanted_ptx='mma.sync ld.global.nc.v4' wanted_sass='HMMA.16816 LDG.E.128' ;;
      *gate_kernel*) short=gate wanted_ptx='mma.sync ld.global.nc.v4' wanted_sass='HMMA.16816 LDG.E.128' ;;
      *) continue ;;
    esac
    n=$((n + 1))
    [ "$stack" = 0 ] && [ "$spilled" = 0 ] || fail "sm_$architecture $name: $stack bytes of stack, $spilled spilled"
    most=$(budget "$name")
    [ "$registers" -le "$most" ] || fail "sm_$architecture $name: $registers registers, at most $most"
    [ "$short" != wgmma ] || [ "$registers" = "$most" ] ||
      fail "sm_$architecture $name: $registers registers at entry, setmaxnreg counts on $most"
    for instruction in $wanted_ptx; do
      has "$name" "$instruction" "$base.ptx" || fail "sm_$architecture $name: no $instruction in PTX"
    done
    [ -z "$sass" ] || for instruction in $wanted_sass; do
      has "$name" "$instruction" "$sass" || fail "sm_$architecture $name: no $instruction in machine code"
    done
    [ -z "$sass" ] || for instruction in LDL STL; do
      ! has "$name" " $instruction" "$sass" || fail "sm_$architecture $name: $instruction, local memory"
    done
    case $name in *shapeILi64E* | *backward*Li64E*) d=64 ;; *) d=128 ;; esac
    case $name in *4bf16*) t=bf16 ;; *) t=f16 ;; esac
    case $short in *split* | tile | wgmma | backward) t="$t head dim $d" ;; esac
    echo "sm_$architecture $short $t: $registers registers, no spill"
  done < "$base.kernels"
  case $architecture in 80) expected=22 ;; *) expected=26 ;; esac
  [ $n = $expected ] || fail "sm_$architecture: $n kernels found, $expected expected"
done
[ -n "$cuobjdump" ] || echo "machine code was not looked at: no cuobjdump or no nvdisasm"
exit $failed
