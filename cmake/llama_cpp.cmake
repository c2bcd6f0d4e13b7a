# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# Target `llama` where a llama.cpp is installed; only an example and its tests use it. The Python
# package llama-cpp-python brings one: -Dllama_ROOT=<its site-packages>.
find_package(llama QUIET CONFIG)
if(NOT TARGET llama)
  set(GISTKV_LLAMA_MISSING "llama.cpp was not found (PyPI: llama-cpp-python, see docs/llama_cpp.md)")
elseif(NOT EXISTS "${LLAMA_INCLUDE_DIR}/llama.h" OR NOT EXISTS "${LLAMA_INCLUDE_DIR}/gguf.h")
  set(GISTKV_LLAMA_MISSING "llama.cpp has no llama.h and gguf.h in ${LLAMA_INCLUDE_DIR}")
endif()
if(GISTKV_LLAMA_MISSING)
  message(STATUS "example llama_cpp: off, ${GISTKV_LLAMA_MISSING}")
endif()
