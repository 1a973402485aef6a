# dunlin_library / dunlin_test / dunlin_fuzz: one call per target, with exact DEPS.
# Warnings are errors on our own code; dependencies' headers are SYSTEM (imported targets are).

add_library(dunlin_options INTERFACE)
# -ffp-contract=off: a product and a sum stay two roundings: results must not depend on what the compiler fuses.
target_compile_options(dunlin_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Werror;-ffp-contract=off>")
target_include_directories(dunlin_options INTERFACE ${PROJECT_SOURCE_DIR})
if(DUNLIN_SANITIZE)
  add_compile_options(-fsanitize=${DUNLIN_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${DUNLIN_SANITIZE})
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(dunlin_options INTERFACE -Wthread-safety)
endif()

find_program(DUNLIN_MOLD mold)
if(DUNLIN_MOLD AND NOT CMAKE_CROSSCOMPILING)
  add_link_options(-fuse-ld=mold)
endif()
find_program(DUNLIN_CCACHE ccache)
if(DUNLIN_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${DUNLIN_CCACHE})
endif()

# dunlin_library(NAME x HDRS a.h… SRCS a.cc… DEPS …): target dunlin_x, alias dunlin::x. Header-only without SRCS.
# Every header must compile alone: `cmake --build … --target all_verify_interface_header_sets` proves it.
function(dunlin_library)
  cmake_parse_arguments(ARG "" "NAME" "HDRS;SRCS;DEPS" ${ARGN})
  set(target dunlin_${ARG_NAME})
  if(ARG_SRCS)
    add_library(${target} STATIC ${ARG_SRCS})
    set(scope PUBLIC)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(dunlin::${ARG_NAME} ALIAS ${target})
  target_sources(${target} ${scope} FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARG_HDRS})
  target_link_libraries(${target} ${scope} ${ARG_DEPS} dunlin_options)
endfunction()

# dunlin_binary(NAME dunlin-x SRCS … DEPS …): an executable in bin/.
function(dunlin_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} dunlin_options)
endfunction()

# dunlin_test(NAME x_test SRCS … DEPS … [LABELS unit] [ARGS …]): one GoogleTest executable, one ctest entry.
# Tests find the checkout by DUNLIN_SOURCE_DIR and optional third-party data by DUNLIN_SHARED_DATA (tests/support/test_data.h).
function(dunlin_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS;ARGS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest_main dunlin_options)
  target_compile_definitions(${ARG_NAME} PRIVATE DUNLIN_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} ${ARG_ARGS})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

# dunlin_fuzz(NAME x_fuzz SRCS … DEPS …): a libFuzzer target in bin/; its corpus is tests/fuzz/corpus/x_fuzz. All of them: all_fuzz.
add_custom_target(all_fuzz)
function(dunlin_fuzz)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  if(NOT DUNLIN_FUZZ)
    return()
  endif()
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} dunlin_options)
  target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
  add_dependencies(all_fuzz ${ARG_NAME})
endfunction()
