# CUDA for the preset `cuda`: the compiler, the architectures, and the options of every unit that nvcc compiles
# (dunlin_cuda_options). Included by the top directory where DUNLIN_CUDA is on; without it no file of the tree needs CUDA.

set(DUNLIN_CUDA_ARCHS "87;89;90a;100a;120a" CACHE STRING "Architectures to build machine code for")
# PTX is what a driver compiles for every device without machine code here (A100, RTX 30, and those to come). 80 is the oldest
# that has cp.async and the matrix instructions in use, so it reaches most; it converts E4M3 in software, which is exact and
# costs some speed on such a device until its number joins the list above.
set(DUNLIN_CUDA_PTX "80" CACHE STRING "Architecture of the PTX for other devices; empty: none")
option(DUNLIN_CUDA_SOFT_FP8 "Convert E4M3 in software on every device, as sm_87 must" OFF)

if(NOT CMAKE_CUDA_COMPILER)
  set(cache $ENV{DUNLIN_CACHE})
  if(NOT cache AND DEFINED ENV{XDG_CACHE_HOME})
    set(cache $ENV{XDG_CACHE_HOME}/dunlin)
  elseif(NOT cache)
    set(cache $ENV{HOME}/.cache/dunlin)
  endif()
  if(DEFINED ENV{CUDACXX})
    set(CMAKE_CUDA_COMPILER $ENV{CUDACXX})
  else()
    find_program(DUNLIN_NVCC nvcc HINTS /usr/local/cuda/bin ${cache}/cuda-13.0/nvidia/cu13/bin)
    if(NOT DUNLIN_NVCC)
      message(FATAL_ERROR "DUNLIN_CUDA is on and there is no nvcc on PATH, in CUDACXX or under /usr/local/cuda. "
        "Run tools/lib/cuda_toolkit: it installs one in ${cache} and prints where.")
    endif()
    set(CMAKE_CUDA_COMPILER ${DUNLIN_NVCC})
  endif()
endif()

# An older nvcc lacks the newest architectures: they are left out, and said.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} does not run; tools/lib/cuda_toolkit finds or installs an nvcc that does")
endif()
set(CMAKE_CUDA_ARCHITECTURES)
foreach(arch ${DUNLIN_CUDA_ARCHS})
  string(REGEX REPLACE "[a-z]" "" number ${arch})
  if(known MATCHES "sm_${number}[^0-9]")
    list(APPEND CMAKE_CUDA_ARCHITECTURES ${arch}-real)
  else()
    message(STATUS "${CMAKE_CUDA_COMPILER} knows no sm_${number}: there is no machine code for it in this build")
  endif()
endforeach()
if(DUNLIN_CUDA_PTX)
  list(APPEND CMAKE_CUDA_ARCHITECTURES ${DUNLIN_CUDA_PTX}-virtual)
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  message(FATAL_ERROR "no architecture is left of DUNLIN_CUDA_ARCHS (${DUNLIN_CUDA_ARCHS})")
endif()
if(DUNLIN_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${DUNLIN_CCACHE})
endif()
enable_language(CUDA)
# CMake 3.25 does not know that this compiler has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()

add_library(dunlin_cuda_options INTERFACE)
target_compile_options(dunlin_cuda_options INTERFACE
  # 128: what follows a return under `if constexpr` is not reachable in some instances, and need not be.
  "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--threads=2;--Werror=all-warnings;--diag-suppress=128>"
  # A spill or an array in local memory fails the build.
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills,-warn-lmem-usage,-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off>")
if(DUNLIN_CUDA_SOFT_FP8)
  target_compile_definitions(dunlin_cuda_options INTERFACE DUNLIN_CUDA_SOFT_FP8)
endif()
