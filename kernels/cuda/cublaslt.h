#pragma once

#include <cublasLt.h>

#include <memory>
#include <string>

#include "kernels/error.h"

// cuBLASLt's functions, which the plug-in is not linked to (library.h).

namespace spectrain {

struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusName) status_name;
  decltype(&cublasLtMatmulDescCreate) operation_create;
  decltype(&cublasLtMatmulDescDestroy) operation_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) operation_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check_algorithm;
  decltype(&cublasLtMatmul) matmul;
};

// Opened once for the process. Throws Error "... cuBLASLt (libcublasLt.so.13) is neither ..." where it is
// missing.
const CublasLt& open_cublaslt();

// Throws Error "cuBLASLt failed in <doing what> for <product>: CUBLAS_STATUS_..." unless it succeeded.
inline void check_cublaslt(const CublasLt& lt, cublasStatus_t status, const char* doing,
                           const std::string& product = {}) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(std::string("cuBLASLt failed in ") + doing + (product.empty() ? "" : " for " + product) + ": " +
              lt.status_name(status));
}

}  // namespace spectrain
