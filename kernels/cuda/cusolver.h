#pragma once

#include <cusolverDn.h>

#include <string>

// cuSOLVER's functions, which the plug-in is not linked to (library.h).

namespace spectrain {

struct Cusolver {
  decltype(&cusolverDnCreate) create;
  decltype(&cusolverDnDestroy) destroy;
  decltype(&cusolverDnSetStream) set_stream;
  decltype(&cusolverDnCreateParams) create_params;
  decltype(&cusolverDnDestroyParams) destroy_params;
  decltype(&cusolverDnXsyevd_bufferSize) syevd_bytes;
  decltype(&cusolverDnXsyevd) syevd;
  decltype(&cusolverDnSgeqrf_bufferSize) geqrf_elements;
  decltype(&cusolverDnSgeqrf) geqrf;
  decltype(&cusolverDnSorgqr_bufferSize) orgqr_elements;
  decltype(&cusolverDnSorgqr) orgqr;
  decltype(&cusolverDnSgesvd_bufferSize) gesvd_elements;
  decltype(&cusolverDnSgesvd) gesvd;
  // Not in versions before 11.7.1 (CUDA 12.6), nor in their headers, so its type is spelled out: null there.
  cusolverStatus_t (*syev_batched_bytes)(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
                                         cublasFillMode_t, std::int64_t n, cudaDataType, const void* a,
                                         std::int64_t lda, cudaDataType, const void* w, cudaDataType,
                                         std::size_t* device_bytes, std::size_t* host_bytes,
                                         std::int64_t count);
  cusolverStatus_t (*syev_batched)(cusolverDnHandle_t, cusolverDnParams_t, cusolverEigMode_t,
                                   cublasFillMode_t, std::int64_t n, cudaDataType, void* a, std::int64_t lda,
                                   cudaDataType, void* w, cudaDataType, void* device,
                                   std::size_t device_bytes, void* host, std::size_t host_bytes, int* info,
                                   std::int64_t count);
};

// Opened once for the process. Null with a reason, a clause without a full stop, where it is missing.
const Cusolver* open_cusolver(std::string& why_not);

}  // namespace spectrain
