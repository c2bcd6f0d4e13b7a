# Copyright 2026 The gistkv authors
# SPDX-License-Identifier: Apache-2.0

# What the build itself promises: headers that stand alone, arrows that point inward, misuse that does
# not compile. Included by tests/CMakeLists.txt.

set(build_dir ${CMAKE_CURRENT_SOURCE_DIR}/build)

# Two translation units with every header, each included twice, must link to one program.
file(GLOB_RECURSE all_headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include
  ${PROJECT_SOURCE_DIR}/include/*.hpp)
set(backends eigen)
foreach(component onednn mpi)
  if(TARGET gistkv::${component})
    list(APPEND backends ${component})
  endif()
endforeach()
foreach(backend IN LISTS backends)
  # Those that compile alone; what is not for this CPU is not among them.
  get_property(backend_headers TARGET gistkv_${backend} PROPERTY HEADER_SET)
  list(TRANSFORM backend_headers REPLACE ".*/backends/${backend}/include/" "")
  list(APPEND all_headers ${backend_headers})
endforeach()
set(once ${all_headers})
list(TRANSFORM once PREPEND "#include <")
list(TRANSFORM once APPEND ">\n")
set(twice ${once} ${once})
list(JOIN twice "" twice)
file(CONFIGURE OUTPUT odr/every_header_twice.hpp CONTENT "${twice}" @ONLY)
add_executable(gistkv_test_odr build/odr_first.cpp build/odr_second.cpp)
target_include_directories(gistkv_test_odr PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/odr)
target_link_libraries(gistkv_test_odr PRIVATE gistkv_dev)
target_compile_options(gistkv_test_odr PRIVATE -O0)  # It is the linker that is asked.
foreach(component IN LISTS backends)
  target_link_libraries(gistkv_test_odr PRIVATE gistkv::${component})
endforeach()
gistkv_test(build.one_definition COMMAND gistkv_test_odr LABELS build)

get_target_property(eigen_include Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
file(GLOB rejected CONFIGURE_DEPENDS build/must_not_compile/*.cpp)
set(onednn_include "")
if(TARGET gistkv::onednn)
  get_target_property(onednn_include DNNL::dnnl INTERFACE_INCLUDE_DIRECTORIES)
endif()
set(mpi_include "")
if(TARGET gistkv::mpi)
  list(GET MPI_CXX_INCLUDE_DIRS 0 mpi_include)
endif()
if(NOT CMAKE_CROSSCOMPILING)
  find_program(GISTKV_CLANGXX NAMES clang++ clang++-14)
endif()
set(compilers ${CMAKE_CXX_COMPILER_ID})
set(compiler_${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER})
if(GISTKV_CLANGXX AND NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  list(APPEND compilers Clang)
  set(compiler_Clang ${GISTKV_CLANGXX})
endif()
set(ccache ${GISTKV_CCACHE})
if(NOT ccache)
  set(ccache "")
endif()
foreach(compiler IN LISTS compilers)
  string(TOLOWER ${compiler} compiler_name)
  set(compiler_environment
    CXX=${compiler_${compiler}} SOURCE=${PROJECT_SOURCE_DIR} EIGEN=${eigen_include}
    ONEDNN=${onednn_include} MPI=${mpi_include} SCRATCH=${CMAKE_CURRENT_BINARY_DIR})
  gistkv_test(build.headers_alone.${compiler_name}
    COMMAND sh ${build_dir}/headers_alone.sh LABELS build
    ENVIRONMENT ${compiler_environment} CCACHE=${ccache})
  set_tests_properties(build.headers_alone.${compiler_name} PROPERTIES PROCESSORS 2 COST 100)
  foreach(source IN LISTS rejected)
    get_filename_component(name ${source} NAME_WE)
    gistkv_test(build.rejects.${name}.${compiler_name}
      COMMAND sh ${build_dir}/must_not_compile.sh ${source}
      LABELS build ENVIRONMENT ${compiler_environment})
  endforeach()
endforeach()

if(compiler_Clang)
  file(GLOB fuzzers CONFIGURE_DEPENDS fuzz/*.cpp)
  foreach(source IN LISTS fuzzers)
    get_filename_component(name ${source} NAME_WE)
    gistkv_test(fuzz.${name}
      COMMAND sh ${build_dir}/fuzz.sh ${source} LABELS fuzz
      ENVIRONMENT CLANGXX=${compiler_Clang} SOURCE=${PROJECT_SOURCE_DIR}
        SCRATCH=${CMAKE_CURRENT_BINARY_DIR})
  endforeach()
endif()

gistkv_test(build.layers
  COMMAND sh ${build_dir}/layers.sh ${PROJECT_SOURCE_DIR} LABELS build)
gistkv_test(build.readme_excerpt
  COMMAND sh ${build_dir}/readme_excerpt.sh ${PROJECT_SOURCE_DIR} LABELS build)
gistkv_test(build.format
  COMMAND sh ${build_dir}/format.sh ${PROJECT_SOURCE_DIR} LABELS build)
if(NOT CMAKE_CROSSCOMPILING)
  gistkv_test(build.tidy
    COMMAND sh ${build_dir}/tidy.sh ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR} LABELS build)
  set_tests_properties(build.tidy PROPERTIES COST 60)
endif()
