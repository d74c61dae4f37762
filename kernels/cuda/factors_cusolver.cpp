#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/cuda/cusolver.h"
#include "kernels/cuda/factors.h"
#include "kernels/error.h"

// Which of cuSOLVER's functions, and why:
//   eigenvectors  Xsyevd, divide and conquer; for several matrices XsyevBatched, made for many small ones,
//                 where the library has it and its work memory stays within the plan
//   QR            geqrf and orgqr
//   SVD           gesvd, the QR iteration: it is slower than gesvdj (Jacobi, as good as its tolerance) and
//                 gesvdp (by way of a polar factor, off by a perturbation where a matrix is singular), but
//                 small singular values are as right as in float32 they can be, and its only answer is an
//                 info in device memory. It wants at least as many rows as columns.
// The same bits in every run: that is the library's default (cusolverDnSetDeterministicMode).

namespace spectrain {
namespace {

void check_cusolver(cusolverStatus_t status, const char* doing) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  throw Error(
      fmt::format("cuSOLVER failed in {} (its status {}): the GPU's memory may be full, then a smaller "
                  "batch helps",
                  doing, static_cast<int>(status)));
}

int narrow(std::int64_t n) {
  if (n > std::numeric_limits<int>::max())
    throw Error(
        fmt::format("a matrix with a side of {} is too large for cuSOLVER: give it to an optimizer that "
                    "does not factorise",
                    n));
  return static_cast<int>(n);
}

constexpr auto kVectors = CUSOLVER_EIG_MODE_VECTOR;
constexpr auto kLower = CUBLAS_FILL_MODE_LOWER;
constexpr auto kF32 = CUDA_R_32F;

class CusolverFactors final : public FactorLibrary {
 public:
  CusolverFactors(CudaBackend& backend, const Cusolver& cusolver) : c_(cusolver) {
    check_cusolver(c_.create(&handle_), "starting");
    try {
      check_cusolver(c_.set_stream(handle_, backend.stream()), "starting");
      check_cusolver(c_.create_params(&params_), "starting");
    } catch (...) {
      c_.destroy(handle_);
      throw;
    }
  }
  ~CusolverFactors() override {
    c_.destroy_params(params_);
    c_.destroy(handle_);
  }
  CusolverFactors(const CusolverFactors&) = delete;
  CusolverFactors& operator=(const CusolverFactors&) = delete;

  std::size_t eigh_bytes(std::int64_t n, std::int64_t count, std::size_t budget) override {
    return plan_eigh(n, count, budget).device;
  }
  void eigh(std::int64_t n, std::int64_t count, float* a, float* values, void* work, std::size_t bytes,
            int* info) override {
    const EighPlan plan = plan_eigh(n, count, bytes);
    // The host waits before the next call, so this is not in use.
    if (host_.size() < plan.host) host_.resize(plan.host);
    for (std::int64_t i = 0; i < count; i += plan.together) {
      const std::int64_t now = std::min(plan.together, count - i);
      float *const x = a + i * n * n, *const w = values + i * n;
      check_cusolver(plan.together > 1
                         ? c_.syev_batched(handle_, params_, kVectors, kLower, n, kF32, x, n, kF32, w, kF32,
                                           work, bytes, host_.data(), host_.size(), info + i, now)
                         : c_.syevd(handle_, params_, kVectors, kLower, n, kF32, x, n, kF32, w, kF32, work,
                                    bytes, host_.data(), host_.size(), info + i),
                     "an eigendecomposition");
    }
  }

  std::size_t columns_bytes(std::int64_t m, std::int64_t n) override {
    int factor = 0, make = 0;
    check_cusolver(c_.geqrf_elements(handle_, narrow(m), narrow(n), nullptr, narrow(m), &factor),
                   "planning a QR decomposition");
    check_cusolver(
        c_.orgqr_elements(handle_, narrow(m), narrow(n), narrow(n), nullptr, narrow(m), nullptr, &make),
        "planning a QR decomposition");
    return static_cast<std::size_t>(std::max(factor, make)) * sizeof(float);
  }
  void columns_factor(std::int64_t m, std::int64_t n, float* a, float* factors, void* work, std::size_t bytes,
                      int* info) override {
    check_cusolver(c_.geqrf(handle_, narrow(m), narrow(n), a, narrow(m), factors, static_cast<float*>(work),
                            elements(bytes), info),
                   "a QR decomposition");
  }
  void columns_make(std::int64_t m, std::int64_t n, float* a, const float* factors, void* work,
                    std::size_t bytes, int* info) override {
    check_cusolver(c_.orgqr(handle_, narrow(m), narrow(n), narrow(n), a, narrow(m), factors,
                            static_cast<float*>(work), elements(bytes), info),
                   "a QR decomposition");
  }

  std::size_t svd_bytes(std::int64_t m, std::int64_t n) override {
    int most = 0;
    check_cusolver(c_.gesvd_elements(handle_, narrow(m), narrow(n), &most),
                   "planning a singular value decomposition");
    // And what gesvd leaves of the superdiagonal when it does not converge.
    return (static_cast<std::size_t>(most) + static_cast<std::size_t>(n)) * sizeof(float);
  }
  void svd(std::int64_t m, std::int64_t n, float* a, float* s, float* u, float* vt, void* work,
           std::size_t bytes, int* info) override {
    const signed char job = u ? 'S' : 'N';
    // The residue behind the work memory, which keeps its alignment.
    auto* const memory = static_cast<float*>(work);
    const int left = elements(bytes) - narrow(n);
    check_cusolver(c_.gesvd(handle_, job, job, narrow(m), narrow(n), a, narrow(m), s, u, narrow(m), vt,
                            narrow(n), memory, left, memory + left, info),
                   "a singular value decomposition");
  }

 private:
  struct EighPlan {
    std::int64_t together = 1;  // matrices in one call
    std::size_t device = 0, host = 0;
  };
  // As many at once as fit into `budget`, halved until they do.
  EighPlan plan_eigh(std::int64_t n, std::int64_t count, std::size_t budget) const {
    EighPlan plan;
    if (c_.syev_batched)
      for (plan.together = count; plan.together > 1; plan.together = (plan.together + 1) / 2) {
        check_cusolver(c_.syev_batched_bytes(handle_, params_, kVectors, kLower, n, kF32, nullptr, n, kF32,
                                             nullptr, kF32, &plan.device, &plan.host, plan.together),
                       "planning eigendecompositions");
        if (plan.device <= budget) return plan;
      }
    plan.together = 1;
    check_cusolver(c_.syevd_bytes(handle_, params_, kVectors, kLower, n, kF32, nullptr, n, kF32, nullptr,
                                  kF32, &plan.device, &plan.host),
                   "planning an eigendecomposition");
    return plan;
  }
  static int elements(std::size_t bytes) {
    return static_cast<int>(std::min<std::size_t>(bytes / sizeof(float), std::numeric_limits<int>::max()));
  }

  const Cusolver& c_;
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
  std::vector<std::byte> host_;
};

}  // namespace

std::unique_ptr<FactorLibrary> make_factor_library(CudaBackend& backend, std::string& why_not) {
  const Cusolver* const cusolver = open_cusolver(why_not);
  return cusolver ? std::make_unique<CusolverFactors>(backend, *cusolver) : nullptr;
}

}  // namespace spectrain
