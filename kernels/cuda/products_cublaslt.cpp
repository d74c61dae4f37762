#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/plain_product.h"
#include "kernels/cuda/product_plans.h"
#include "kernels/cuda/products.h"

// Matrix products through cuBLASLt. It thinks in columns: a row-major matrix is to it the transpose of what
// it is to us, so it is asked for c^T = op(b)^T op(a)^T, with b as its first factor.
//
// The same bits in every run: one algorithm for each product, chosen once; sums cut into pieces (split-K) are
// kept in float32 and added by a second kernel in a fixed order. The other ways of adding them, in the output
// itself or in its dtype, would round partial sums to bf16, and are excluded.

namespace spectrain {
namespace {

// Of which the library's kernels may use all: NVIDIA's advice for Hopper ("cublasSetWorkspace").
constexpr std::size_t kWorkspace = CudaSizes::kProductWorkspace;
constexpr std::uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
constexpr int kCandidates = 8;           // are timed
constexpr float kTimed = 5;              // milliseconds for each of them, about
constexpr float kClearlyFaster = 0.98f;  // than the library's own first choice

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    case DType::f32:
      return CUDA_R_32F;
    default:
      throw std::logic_error(fmt::format("a matrix product of {}", name_of(dtype)));
  }
}

cudaDataType_t cuda_type(Fp8 format) { return format == Fp8::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2; }

cublasLtEpilogue_t epilogue_of(const ProductKey& key) {
  if (key.slope) return CUBLASLT_EPILOGUE_DGELU;
  if (key.gelu_tanh && key.pre)
    return key.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  if (key.gelu_tanh) return key.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  return key.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// The preferences of the heuristic know nothing of the bias' alignment, and the one of the value before GELU
// must be right by itself (CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD): a kernel chosen regardless would fault.
bool epilogue_fits(const Product& p) {
  return p.n % 8 == 0 && aligned(p.bias) && aligned(p.pre) && aligned(p.slope_at) && aligned(p.c);
}

// Whichever way it lies in memory, every row of an eight-bit factor begins at a multiple of 16 bytes.
bool eight_bits_fit(const Product& p) {
  return p.m % 16 == 0 && p.n % 16 == 0 && p.k % 16 == 0 && aligned(p.a) && aligned(p.b) && aligned(p.c);
}

// What the library keeps of one product: freed with the object.
class Operation {
 public:
  Operation(const CublasLt& lt, const ProductKey& key) : lt_(lt) {
    try {
      make(key);
    } catch (...) {
      free();
      throw;
    }
  }
  ~Operation() { free(); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  void set(cublasLtMatmulDescAttributes_t attribute, const void* value, std::size_t bytes) {
    check_cublaslt(lt_, lt_.operation_set(product, attribute, value, bytes), "describing a product");
  }

  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  bool supported = false;  // by an algorithm that keeps the rules above
  cublasLtMatmulAlgo_t algorithm{};

 private:
  void make(const ProductKey& key) {
    const auto need = [&](cublasStatus_t status) { check_cublaslt(lt_, status, "describing", key.text()); };
    need(lt_.operation_create(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t b = key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            a = key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, &b, sizeof b);
    set(CUBLASLT_MATMUL_DESC_TRANSB, &a, sizeof a);
    const cublasLtEpilogue_t epilogue = epilogue_of(key);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    const cudaDataType_t result_type = cuda_type(key.result);
    if (key.bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &result_type, sizeof result_type);
    if (key.pre || key.slope) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &key.n, sizeof key.n);
    const std::int8_t fast = key.eight_bits && key.eight_bits->fast_sums;
    if (fast) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
    // As it stands in memory, seen by columns: b [k,n] has n rows, or b [n,k] has k.
    const cudaDataType_t b_type = key.eight_bits ? cuda_type(key.eight_bits->b) : cuda_type(key.factors),
                         a_type = key.eight_bits ? cuda_type(key.eight_bits->a) : cuda_type(key.factors);
    first = layout(key, key.transpose_b ? key.k : key.n, key.transpose_b ? key.n : key.k, b_type);
    second = layout(key, key.transpose_a ? key.m : key.k, key.transpose_a ? key.k : key.m, a_type);
    result = layout(key, key.n, key.m, result_type);
  }
  cublasLtMatrixLayout_t layout(const ProductKey& key, std::int64_t rows, std::int64_t cols,
                                cudaDataType_t type) {
    cublasLtMatrixLayout_t made = nullptr;
    const auto need = [&](cublasStatus_t status) { check_cublaslt(lt_, status, "describing", key.text()); };
    need(lt_.layout_create(&made, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols),
                           rows));
    if (key.batch == 1) return made;
    const auto count = static_cast<std::int32_t>(key.batch);
    const std::int64_t stride = rows * cols;
    const cublasStatus_t counted =
        lt_.layout_set(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    const cublasStatus_t strided =
        lt_.layout_set(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    if (counted != CUBLAS_STATUS_SUCCESS || strided != CUBLAS_STATUS_SUCCESS) lt_.layout_destroy(made);
    need(counted);
    need(strided);
    return made;
  }
  void free() {
    for (cublasLtMatrixLayout_t l : {first, second, result})
      if (l) lt_.layout_destroy(l);
    if (product) lt_.operation_destroy(product);
  }
  const CublasLt& lt_;
};

// How long a piece of the stream takes on the device.
class Stopwatch {
 public:
  Stopwatch() {
    check_cuda(cudaEventCreate(&begin_), "making an event");
    if (cudaEventCreate(&end_) != cudaSuccess) {
      cudaEventDestroy(begin_);
      check_cuda(cudaGetLastError(), "making an event");
    }
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <class Body>
  float milliseconds(cudaStream_t stream, Body body) {
    check_cuda(cudaEventRecord(begin_, stream), "timing a matrix product");
    body();
    check_cuda(cudaEventRecord(end_, stream), "timing a matrix product");
    check_cuda(cudaEventSynchronize(end_), "timing a matrix product");
    float time = 0;
    check_cuda(cudaEventElapsedTime(&time, begin_, end_), "timing a matrix product");
    return time;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

class CublasLtProducts final : public Products {
 public:
  explicit CublasLtProducts(CudaBackend& backend) : backend_(backend), lt_(open_cublaslt()) {
    if (backend.recording()) throw std::logic_error("a recorded product before any was run");
    workspace_ = backend.allocate(kWorkspace, "workspace of the matrix products");
    if (!backend.options().plan_cache.empty())
      plans_.emplace(backend.options().plan_cache, backend.description() + ", " + description());
    check_cublaslt(lt_, lt_.create(&handle_), "starting");
  }
  ~CublasLtProducts() override {
    operations_.clear();
    lt_.destroy(handle_);
  }
  CublasLtProducts(const CublasLtProducts&) = delete;
  CublasLtProducts& operator=(const CublasLtProducts&) = delete;

  std::string description() const override {
    const std::size_t v = lt_.version();
    return fmt::format("cuBLASLt {}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }

  void run(const Product& p) override {
    if (has_epilogue(p) && (p.alpha != 1 || p.beta != 0 || p.batch != 1 || (p.pre && !p.gelu_tanh) ||
                            (p.slope_at && (p.bias || p.gelu_tanh))))
      throw std::logic_error(
          "a product with an epilogue has alpha 1, beta 0 and a batch of 1; one with pre has GELU, and one "
          "with a slope nothing else");
    if (p.batch == 0 || p.m == 0 || p.n == 0) return;
    if (p.k == 0) return plain_product(backend_, p);
    if (!has_epilogue(p)) {
      if (!multiply(p)) plain_product(backend_, p);
    } else if (!epilogue_fits(p) || !multiply(p)) {
      in_parts(p);
    }
  }

  bool run_eight_bits(const Product& p) override {
    if (!p.eight_bits || p.batch != 1 || p.transpose_a || !p.transpose_b || has_epilogue(p))
      throw std::logic_error("a product of eight-bit floats is one a . b^T without an epilogue");
    if (p.m == 0 || p.n == 0) return true;
    return p.k > 0 && eight_bits_fit(p) && multiply(p);
  }

 private:
  // The product, with the bias in place before it, then what follows it.
  void in_parts(const Product& p) {
    Product sums = p;
    if (p.pre) sums.c = p.pre;
    if (p.bias) {
      spread_bias(backend_, sums);
      sums.beta = 1;
    }
    sums.bias = nullptr, sums.gelu_tanh = false, sums.pre = nullptr, sums.slope_at = nullptr;
    run(sums);
    const Tensor result(p.c, p.result, {p.m, p.n});
    if (p.slope_at)
      backend_.activation_backward(Activation::gelu_tanh, result,
                                   Tensor(const_cast<void*>(p.slope_at), p.result, {p.m, p.n}), result);
    if (p.gelu_tanh) backend_.activation(Activation::gelu_tanh, Tensor(sums.c, p.result, {p.m, p.n}), result);
  }

  // False: the library has no kernel for it.
  bool multiply(const Product& p) {
    const ProductKey key(p);
    auto it = operations_.find(key);
    if (it == operations_.end()) {
      if (backend_.recording())
        throw std::logic_error("a recorded product that was not run before: " + key.text());
      it = operations_.try_emplace(key, lt_, key).first;
      point(it->second, p);
      choose(key, it->second, p);
    }
    Operation& operation = it->second;
    if (!operation.supported) return false;
    point(operation, p);
    const cublasStatus_t status = start(operation, operation.algorithm, p, p.c, p.beta);
    if (status != CUBLAS_STATUS_SUCCESS) check_cublaslt(lt_, status, "multiplying", key.text());
    return true;
  }

  static void point(Operation& operation, const Product& p) {
    if (p.bias) operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p.bias, sizeof p.bias);
    if (p.pre) operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p.pre, sizeof p.pre);
    if (p.slope_at) operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &p.slope_at, sizeof p.slope_at);
  }

  cublasStatus_t start(const Operation& o, const cublasLtMatmulAlgo_t& algorithm, const Product& p, void* c,
                       float beta) {
    return lt_.matmul(handle_, o.product, &p.alpha, p.b, o.first, p.a, o.second, &beta, c, o.result, c,
                      o.result, &algorithm, workspace_->data(), kWorkspace, backend_.stream());
  }

  void choose(const ProductKey& key, Operation& operation, const Product& p) {
    const std::string text = key.text();
    if (plans_) {
      const std::optional<ProductPlan> kept = plans_->find(text);
      if (kept && usable(*kept, operation)) {
        operation.supported = true;
        return;
      }
    }
    const bool timed = plans_ && plans_->writable();
    const std::vector<cublasLtMatmulAlgo_t> candidates = ask(key, operation, timed ? kCandidates : 1);
    if (candidates.empty()) return;
    operation.supported = true;
    operation.algorithm = timed ? fastest(candidates, operation, p) : candidates[0];
    if (!plans_) return;
    ProductPlan plan;
    std::copy_n(operation.algorithm.data, plan.size(), plan.begin());
    const cublasLtMatmulAlgo_t own = operation.algorithm;
    if (!usable(plans_->settle(text, plan), operation)) operation.algorithm = own;
  }

  // A plan from the file, if the library takes it for this product; it is then the operation's algorithm.
  bool usable(const ProductPlan& plan, Operation& o) const {
    static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductPlan));
    cublasLtMatmulAlgo_t algorithm;
    std::copy(plan.begin(), plan.end(), algorithm.data);
    cublasLtMatmulHeuristicResult_t answer{};
    if (lt_.check_algorithm(handle_, o.product, o.first, o.second, o.result, o.result, &algorithm, &answer) !=
            CUBLAS_STATUS_SUCCESS ||
        answer.workspaceSize > kWorkspace)
      return false;
    o.algorithm = algorithm;
    return true;
  }

  // The library's proposals, the one it holds to be the fastest first.
  std::vector<cublasLtMatmulAlgo_t> ask(const ProductKey& key, const Operation& o, int count) const {
    const std::string text = key.text();
    cublasLtMatmulPreference_t preference = nullptr;
    check_cublaslt(lt_, lt_.preference_create(&preference), "describing", text);
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(lt_.preference_destroy)>
        owned(preference, lt_.preference_destroy);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      check_cublaslt(lt_, lt_.preference_set(preference, what, &value, sizeof value), "describing", text);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspace});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
    std::vector<cublasLtMatmulHeuristicResult_t> answers(static_cast<std::size_t>(count));
    int found = 0;
    const cublasStatus_t status = lt_.heuristic(handle_, o.product, o.first, o.second, o.result, o.result,
                                                preference, count, answers.data(), &found);
    // Of an epilogue it does not have the library says either, and of types that the device does not
    // multiply: then the product is made in another way.
    const bool plain = epilogue_of(key) == CUBLASLT_EPILOGUE_DEFAULT && !key.eight_bits;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_INVALID_VALUE && !plain)) return {};
    check_cublaslt(lt_, status, "choosing an algorithm", text);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < found; ++i)
      if (const auto& answer = answers[static_cast<std::size_t>(i)];
          answer.state == CUBLAS_STATUS_SUCCESS && answer.workspaceSize <= kWorkspace)
        algorithms.push_back(answer.algo);
    return algorithms;
  }

  // Timed on the product's own operands, for numbers decide how much power a tensor core takes. What is
  // added to must not be added to twice: then the result goes to memory of its own.
  cublasLtMatmulAlgo_t fastest(std::span<const cublasLtMatmulAlgo_t> candidates, const Operation& o,
                               const Product& p) {
    if (candidates.size() == 1) return candidates[0];
    std::unique_ptr<Buffer> aside;
    if (p.beta != 0) try {
        aside = backend_.allocate(static_cast<std::size_t>(p.batch * p.m * p.n) * size_of(p.result),
                                  "the result of a timed matrix product");
      } catch (const Error&) {
        return candidates[0];  // too large to be timed
      }
    void* const c = aside ? aside->data() : p.c;
    Stopwatch watch;
    std::size_t best = 0;
    float best_time = std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      bool works = true;
      const auto once = [&] { works = works && start(o, candidates[i], p, c, 0) == CUBLAS_STATUS_SUCCESS; };
      once();  // loads its code
      const float first = watch.milliseconds(backend_.stream(), once);
      const int times = static_cast<int>(std::clamp(kTimed / std::max(first, 1e-3f), 1.0f, 20.0f));
      const float time = watch.milliseconds(backend_.stream(), [&] {
        for (int t = 0; t < times; ++t) once();
      }) / static_cast<float>(times);
      if (works && time < (best == 0 ? kClearlyFaster : 1.0f) * best_time) {
        best = i;
        best_time = time;
      }
    }
    return candidates[best];
  }

  CudaBackend& backend_;
  const CublasLt& lt_;
  cublasLtHandle_t handle_ = nullptr;
  std::unique_ptr<Buffer> workspace_;
  std::optional<PlanFile> plans_;
  std::map<ProductKey, Operation> operations_;
};

}  // namespace

std::unique_ptr<Products> make_products(CudaBackend& backend) {
  return std::make_unique<CublasLtProducts>(backend);
}

}  // namespace spectrain
