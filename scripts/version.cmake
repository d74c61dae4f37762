cmake_minimum_required(VERSION 3.25)
# Writes OUTPUT (a header with SPECTRAIN_VERSION) from `git describe` in SOURCE, only when it changed.
execute_process(COMMAND git describe --tags --always --dirty WORKING_DIRECTORY ${SOURCE}
                OUTPUT_VARIABLE version OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT version)
  set(version "unknown")
endif()
if(NOT version MATCHES "^v?[0-9]+\\.")
  set(version "0.1-g${version}")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n#define SPECTRAIN_VERSION \"@version@\"\n" @ONLY)
