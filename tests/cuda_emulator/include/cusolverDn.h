#pragma once

#include <cstddef>
#include <cstdint>

#include "cublasLt.h"
#include "cuda_runtime_api.h"

// The part of cuSOLVER's interface that kernels/cuda uses: names and meanings are NVIDIA's (cuSOLVER
// documentation, "cuSolverDN: dense LAPACK"), what stands behind them is cusolver_emulated.cpp.

enum cusolverStatus_t {
  CUSOLVER_STATUS_SUCCESS = 0,
  CUSOLVER_STATUS_INVALID_VALUE = 3,
  CUSOLVER_STATUS_EXECUTION_FAILED = 6,
};
enum cusolverEigMode_t { CUSOLVER_EIG_MODE_NOVECTOR, CUSOLVER_EIG_MODE_VECTOR };
enum cublasFillMode_t { CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER };
using cudaDataType = cudaDataType_t;

struct EmulatedSolver;
struct EmulatedSolverParams;
using cusolverDnHandle_t = EmulatedSolver*;
using cusolverDnParams_t = EmulatedSolverParams*;

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle);
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle);
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream);
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params);
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params);
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                             cusolverEigMode_t vectors, cublasFillMode_t triangle,
                                             std::int64_t n, cudaDataType a_type, const void* a,
                                             std::int64_t lda, cudaDataType w_type, const void* w,
                                             cudaDataType compute, std::size_t* device_bytes,
                                             std::size_t* host_bytes);
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cusolverEigMode_t vectors, cublasFillMode_t triangle, std::int64_t n,
                                  cudaDataType a_type, void* a, std::int64_t lda, cudaDataType w_type,
                                  void* w, cudaDataType compute, void* device, std::size_t device_bytes,
                                  void* host, std::size_t host_bytes, int* info);
cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                                   cusolverEigMode_t vectors, cublasFillMode_t triangle,
                                                   std::int64_t n, cudaDataType a_type, const void* a,
                                                   std::int64_t lda, cudaDataType w_type, const void* w,
                                                   cudaDataType compute, std::size_t* device_bytes,
                                                   std::size_t* host_bytes, std::int64_t count);
cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t vectors, cublasFillMode_t triangle, std::int64_t n,
                                        cudaDataType a_type, void* a, std::int64_t lda, cudaDataType w_type,
                                        void* w, cudaDataType compute, void* device, std::size_t device_bytes,
                                        void* host, std::size_t host_bytes, int* info, std::int64_t count);
cusolverStatus_t cusolverDnSgeqrf_bufferSize(cusolverDnHandle_t handle, int m, int n, float* a, int lda,
                                             int* elements);
cusolverStatus_t cusolverDnSgeqrf(cusolverDnHandle_t handle, int m, int n, float* a, int lda, float* factors,
                                  float* work, int elements, int* info);
cusolverStatus_t cusolverDnSorgqr_bufferSize(cusolverDnHandle_t handle, int m, int n, int k, const float* a,
                                             int lda, const float* factors, int* elements);
cusolverStatus_t cusolverDnSorgqr(cusolverDnHandle_t handle, int m, int n, int k, float* a, int lda,
                                  const float* factors, float* work, int elements, int* info);
cusolverStatus_t cusolverDnSgesvd_bufferSize(cusolverDnHandle_t handle, int m, int n, int* elements);
cusolverStatus_t cusolverDnSgesvd(cusolverDnHandle_t handle, signed char job_u, signed char job_vt, int m,
                                  int n, float* a, int lda, float* s, float* u, int ldu, float* vt, int ldvt,
                                  float* work, int elements, float* rest, int* info);
