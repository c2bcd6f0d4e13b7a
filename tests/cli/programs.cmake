# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# The program as a user sees it, for each backend: cli.usage, cli.usage.onednn. Included by
# tests/CMakeLists.txt. A script gets the program, and after it the others that were built. What is long
# and the same code on every backend runs on the fastest alone.

file(GLOB scripts CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.sh)
list(FILTER scripts EXCLUDE REGEX "/common\\.sh$")
set(mpirun "")
if(TARGET gistkv::mpi)
  set(mpirun ${MPIEXEC_EXECUTABLE})
endif()
set(programs eigen onednn)
set(once adapter eval gmsa_train rows slices train types verbs)
foreach(backend IN LISTS programs)
  set(suffix "")
  if(NOT backend STREQUAL eigen)
    set(suffix .${backend})
  endif()
  set(others "")
  foreach(other IN LISTS programs)
    if(TARGET gistkv-${other} AND NOT other STREQUAL backend)
      list(APPEND others $<TARGET_FILE:gistkv-${other}>)
    endif()
  endforeach()
  foreach(script IN LISTS scripts)
    get_filename_component(name ${script} NAME_WE)
    if(name IN_LIST once AND backend STREQUAL eigen AND TARGET gistkv-onednn)
      continue()
    endif()
    if(TARGET gistkv-${backend})
      gistkv_test(cli.${name}${suffix}
        COMMAND sh ${script} $<TARGET_FILE:gistkv-${backend}> ${others} LABELS cli
        ENVIRONMENT GISTKV_MODEL=${GISTKV_MODEL} GISTKV_DATA_DIR=${GISTKV_DATA_DIR}
          GISTKV_MPIEXEC=${mpirun})
    else()
      gistkv_test(cli.${name}${suffix}
        COMMAND sh -c "echo 'SKIPPED: gistkv-${backend} was not built'; exit 77" LABELS cli)
    endif()
  endforeach()
endforeach()
