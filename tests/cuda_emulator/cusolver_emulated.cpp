#include "tests/cuda_emulator/cusolver_emulated.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/cuda/cusolver.h"
#include "kernels/lapack.h"

// cuSOLVER by way of LAPACK on the emulated device's memory, when the stream gets there. It is as strict as
// the library may be: matrices of an SVD have at least as many rows as columns, work memory is as large as it
// said, and what is written beside results is spoilt: work memory, an SVD's matrix.

extern "C" {
void sgeqrf_(const int*, const int*, float*, const int*, float*, float*, const int*, int*);
void sorgqr_(const int*, const int*, const int*, float*, const int*, const float*, float*, const int*, int*);
}

struct EmulatedSolver {
  cudaStream_t stream = nullptr;
};
struct EmulatedSolverParams {};

namespace {

using spectrain::emulator::cusolver_state;
using namespace spectrain::lapack;

constexpr std::size_t kSyevdBytes = 512, kHostBytes = 64;

void spoil(void* memory, std::size_t bytes) { std::memset(memory, 0xff, bytes); }

bool finite(const float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    if (!std::isfinite(x[i])) {
      ++cusolver_state().met_nan;
      return false;
    }
  return true;
}

class Memory {
 public:
  explicit Memory(const Room& room)
      : room_(room),
        elements_(static_cast<std::size_t>(room.elements)),
        integers_(static_cast<std::size_t>(room.integers)) {}
  Work<float> work() { return {elements_.data(), integers_.data(), room_}; }

 private:
  Room room_;
  std::vector<float> elements_;
  std::vector<int> integers_;
};

void eigh_now(std::int64_t n, float* a, float* w, int* info, int said) {
  Memory memory(eigh_room<float>(n));
  *info = !finite(a, n * n) ? 1 : eigh(n, a, w, memory.work());
  if (said != 0) *info = said;
}

bool plain(cusolverEigMode_t vectors, std::int64_t n, std::int64_t lda, cudaDataType a, cudaDataType w,
           cudaDataType compute) {
  return vectors == CUSOLVER_EIG_MODE_VECTOR && lda >= n && a == CUDA_R_32F && w == CUDA_R_32F &&
         compute == CUDA_R_32F;
}

}  // namespace

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = new EmulatedSolver;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = new EmulatedSolverParams;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
  delete params;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t params,
                                             cusolverEigMode_t vectors, cublasFillMode_t, std::int64_t n,
                                             cudaDataType a_type, const void*, std::int64_t lda,
                                             cudaDataType w_type, const void*, cudaDataType compute,
                                             std::size_t* device_bytes, std::size_t* host_bytes) {
  if (!params || !plain(vectors, n, lda, a_type, w_type, compute)) return CUSOLVER_STATUS_INVALID_VALUE;
  *device_bytes = kSyevdBytes;
  *host_bytes = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cusolverEigMode_t vectors, cublasFillMode_t, std::int64_t n,
                                  cudaDataType a_type, void* a, std::int64_t lda, cudaDataType w_type,
                                  void* w, cudaDataType compute, void* device, std::size_t device_bytes,
                                  void* host, std::size_t host_bytes, int* info) {
  if (!params || !plain(vectors, n, lda, a_type, w_type, compute) || lda != n || !device || !host ||
      device_bytes < kSyevdBytes || host_bytes < kHostBytes)
    return CUSOLVER_STATUS_INVALID_VALUE;
  ++cusolver_state().eigh;
  const int said = std::exchange(cusolver_state().next_info, 0);
  spectrain::emulator::enqueue(handle->stream, [=] {
    spoil(device, kSyevdBytes);
    eigh_now(n, static_cast<float*>(a), static_cast<float*>(w), info, said);
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t, cusolverDnParams_t params,
                                                   cusolverEigMode_t vectors, cublasFillMode_t,
                                                   std::int64_t n, cudaDataType a_type, const void*,
                                                   std::int64_t lda, cudaDataType w_type, const void*,
                                                   cudaDataType compute, std::size_t* device_bytes,
                                                   std::size_t* host_bytes, std::int64_t count) {
  if (!params || !plain(vectors, n, lda, a_type, w_type, compute)) return CUSOLVER_STATUS_INVALID_VALUE;
  *device_bytes = cusolver_state().batch_bytes * static_cast<std::size_t>(count);
  *host_bytes = kHostBytes;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                        cusolverEigMode_t vectors, cublasFillMode_t, std::int64_t n,
                                        cudaDataType a_type, void* a, std::int64_t lda, cudaDataType w_type,
                                        void* w, cudaDataType compute, void* device, std::size_t device_bytes,
                                        void* host, std::size_t host_bytes, int* info, std::int64_t count) {
  const std::size_t needed = cusolver_state().batch_bytes * static_cast<std::size_t>(count);
  if (!params || !plain(vectors, n, lda, a_type, w_type, compute) || lda != n || !device || !host ||
      device_bytes < needed || host_bytes < kHostBytes)
    return CUSOLVER_STATUS_INVALID_VALUE;
  ++cusolver_state().eigh_batches;
  const int said = std::exchange(cusolver_state().next_info, 0);
  spectrain::emulator::enqueue(handle->stream, [=] {
    spoil(device, needed);
    for (std::int64_t i = 0; i < count; ++i)
      eigh_now(n, static_cast<float*>(a) + i * n * n, static_cast<float*>(w) + i * n, info + i,
               i == count - 1 ? said : 0);
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSgeqrf_bufferSize(cusolverDnHandle_t, int m, int n, float*, int lda,
                                             int* elements) {
  if (m < n || lda < m) return CUSOLVER_STATUS_INVALID_VALUE;
  *elements = 32 * n;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSgeqrf(cusolverDnHandle_t handle, int m, int n, float* a, int lda, float* factors,
                                  float* work, int elements, int* info) {
  if (m < n || lda < m || elements < 32 * n) return CUSOLVER_STATUS_INVALID_VALUE;
  ++cusolver_state().reflections;
  spectrain::emulator::enqueue(handle->stream, [=] {
    finite(a, std::int64_t{lda} * n);
    sgeqrf_(&m, &n, a, &lda, factors, work, &elements, info);
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSorgqr_bufferSize(cusolverDnHandle_t, int m, int n, int k, const float*, int lda,
                                             const float*, int* elements) {
  if (m < n || n < k || lda < m) return CUSOLVER_STATUS_INVALID_VALUE;
  *elements = 48 * n;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSorgqr(cusolverDnHandle_t handle, int m, int n, int k, float* a, int lda,
                                  const float* factors, float* work, int elements, int* info) {
  if (m < n || n < k || lda < m || elements < 48 * n) return CUSOLVER_STATUS_INVALID_VALUE;
  const int said = std::exchange(cusolver_state().next_info, 0);
  spectrain::emulator::enqueue(handle->stream, [=] {
    sorgqr_(&m, &n, &k, a, &lda, factors, work, &elements, info);
    if (said != 0) *info = said;
  });
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSgesvd_bufferSize(cusolverDnHandle_t, int m, int n, int* elements) {
  if (m < n) return CUSOLVER_STATUS_INVALID_VALUE;
  *elements = 5 * n;
  return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSgesvd(cusolverDnHandle_t handle, signed char job_u, signed char job_vt, int m,
                                  int n, float* a, int lda, float* s, float* u, int ldu, float* vt, int ldvt,
                                  float* work, int elements, float* rest, int* info) {
  const bool vectors = job_u == 'S';
  if (m < n || lda != m || job_u != job_vt || (!vectors && job_u != 'N') || elements < 5 * n ||
      (vectors && (!u || !vt || ldu != m || ldvt != n)))
    return CUSOLVER_STATUS_INVALID_VALUE;
  ++cusolver_state().svd;
  const int said = std::exchange(cusolver_state().next_info, 0);
  spectrain::emulator::enqueue(handle->stream, [=] {
    Memory memory(svd_room<float>(m, n));
    *info = !finite(a, std::int64_t{m} * n)
                ? 1
                : svd_by_iteration(m, n, a, s, vectors ? u : nullptr, vectors ? vt : nullptr, memory.work());
    if (said != 0) *info = said;
    spoil(a, static_cast<std::size_t>(m) * static_cast<std::size_t>(n) * sizeof(float));
    spoil(work, static_cast<std::size_t>(5 * n) * sizeof(float));
    spoil(rest, static_cast<std::size_t>(n - 1) * sizeof(float));
  });
  return CUSOLVER_STATUS_SUCCESS;
}

namespace spectrain {

namespace emulator {
CusolverState& cusolver_state() {
  static CusolverState state;
  return state;
}
}  // namespace emulator

const Cusolver* open_cusolver(std::string& why_not) {
  static Cusolver cusolver = {cusolverDnCreate,
                              cusolverDnDestroy,
                              cusolverDnSetStream,
                              cusolverDnCreateParams,
                              cusolverDnDestroyParams,
                              cusolverDnXsyevd_bufferSize,
                              cusolverDnXsyevd,
                              cusolverDnSgeqrf_bufferSize,
                              cusolverDnSgeqrf,
                              cusolverDnSorgqr_bufferSize,
                              cusolverDnSorgqr,
                              cusolverDnSgesvd_bufferSize,
                              cusolverDnSgesvd,
                              nullptr,
                              nullptr};
  const bool batches = emulator::cusolver_state().has_batches;
  cusolver.syev_batched_bytes = batches ? cusolverDnXsyevBatched_bufferSize : nullptr;
  cusolver.syev_batched = batches ? cusolverDnXsyevBatched : nullptr;
  why_not.clear();
  return &cusolver;
}

}  // namespace spectrain
