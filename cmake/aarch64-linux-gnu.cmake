# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# Builds for 64-bit ARM with Debian's cross compiler (g++-aarch64-linux-gnu) and runs the result in an
# emulator (qemu-user). Headers without compiled parts are taken from this machine.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR "qemu-aarch64;-L;/usr/aarch64-linux-gnu")
