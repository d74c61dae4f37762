#include "tests/cuda_emulator/cublaslt_emulated.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/fp8.h"
#include "kernels/tensor.h"

// cuBLASLt as plain loops over matrices stored by columns: sums in float32, in the order of k, and one
// rounding at the end; a bias is added and GELU taken before that rounding. It is as strict as the library
// may be: an algorithm belongs to the product it was found for, and pointers are as aligned as was promised.
// It refuses some products (those of three odd sizes), as the library may. Of eight-bit floats it takes what
// a Hopper GPU takes (cuBLAS documentation, cublasLtMatmul): both factors contracted along their columns in
// memory
// ("TN"), everything aligned to 16 bytes, not two e5m2, results in bf16 or float32.

using spectrain::bf16;
using spectrain::f16;
using spectrain::Fp8;
using spectrain::fp8_value;

struct EmulatedLtHandle {};
struct EmulatedLtOperation {
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  cudaDataType_t bias_type{};
  bool has_bias_type = false;
  const void* bias = nullptr;
  void* pre = nullptr;
  std::int64_t pre_ld = 0;
  std::int8_t fast = 0;
};
struct EmulatedLtLayout {
  cudaDataType_t type;
  std::int64_t rows, cols, ld;
  std::int32_t batch = 1;
  std::int64_t stride = 0;
};
struct EmulatedLtPreference {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = 7, a = 256, b = 256, c = 256, d = 256;
};

namespace {

constexpr std::uint64_t kMagic = 0x616c676f726974;
constexpr int kAlgorithms = 3;
constexpr std::size_t kWorkspaceNeeded = 1 << 20;

struct Shape {
  std::int64_t m, n, k;
};

float load(const void* p, cudaDataType_t type, std::int64_t i) {
  if (type == CUDA_R_16BF) return static_cast<float>(static_cast<const bf16*>(p)[i]);
  if (type == CUDA_R_16F) return static_cast<float>(static_cast<const f16*>(p)[i]);
  if (type == CUDA_R_8F_E4M3) return fp8_value(Fp8::e4m3, static_cast<const std::uint8_t*>(p)[i]);
  if (type == CUDA_R_8F_E5M2) return fp8_value(Fp8::e5m2, static_cast<const std::uint8_t*>(p)[i]);
  return static_cast<const float*>(p)[i];
}
void store(void* p, cudaDataType_t type, std::int64_t i, float x) {
  if (type == CUDA_R_16BF)
    static_cast<bf16*>(p)[i] = bf16(x);
  else if (type == CUDA_R_16F)
    static_cast<f16*>(p)[i] = f16(x);
  else
    static_cast<float*>(p)[i] = x;
}

bool eight_bits(cudaDataType_t type) { return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2; }

bool types_fit(cudaDataType_t a, cudaDataType_t b, cudaDataType_t c) {
  if (!eight_bits(a) || !eight_bits(b)) return a == b && (c == a || c == CUDA_R_32F);
  return (a == CUDA_R_8F_E4M3 || b == CUDA_R_8F_E4M3) && (c == CUDA_R_16BF || c == CUDA_R_32F);
}

bool refuses_eight_bits = false;

// Whether a product of eight-bit floats is one of those that there are.
bool has_eight_bits(const EmulatedLtOperation& o, const EmulatedLtLayout& a, const EmulatedLtLayout& b,
                    const EmulatedLtLayout& c) {
  if (refuses_eight_bits || o.a != CUBLAS_OP_T || o.b != CUBLAS_OP_N || a.batch != 1) return false;
  for (const std::int64_t size : {a.rows, a.cols, b.rows, b.cols, c.rows, c.cols, a.ld, b.ld, c.ld})
    if (size % 16 != 0) return false;
  return true;
}

bool consistent(const EmulatedLtOperation& o, const EmulatedLtLayout& a, const EmulatedLtLayout& b,
                const EmulatedLtLayout& c, Shape& shape) {
  const bool at = o.a == CUBLAS_OP_T, bt = o.b == CUBLAS_OP_T;
  shape = {c.rows, c.cols, at ? a.rows : a.cols};
  return (at ? a.cols : a.rows) == shape.m && (bt ? b.rows : b.cols) == shape.n &&
         (bt ? b.cols : b.rows) == shape.k && a.ld >= a.rows && b.ld >= b.rows && c.ld >= c.rows &&
         a.batch == b.batch && b.batch == c.batch && types_fit(a.type, b.type, c.type) &&
         (!o.fast || eight_bits(a.type)) &&
         (!(o.epilogue & CUBLASLT_EPILOGUE_BIAS) || (o.has_bias_type && o.bias_type == c.type)) &&
         (!(o.epilogue & 128) || (o.pre_ld >= c.rows && o.pre_ld % 8 == 0));
}

// What an algorithm was found for.
std::uint64_t fingerprint(const EmulatedLtOperation& o, const EmulatedLtLayout& a, const EmulatedLtLayout& b,
                          const EmulatedLtLayout& c) {
  std::uint64_t hash = 1;
  for (const std::int64_t x :
       {std::int64_t{o.a}, std::int64_t{o.b}, std::int64_t{o.epilogue}, std::int64_t{a.type}, a.rows, a.cols,
        std::int64_t{b.type}, b.rows, b.cols, std::int64_t{c.type}, c.rows, c.cols, std::int64_t{c.batch},
        std::int64_t{o.fast}})
    hash = hash * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(x) + (hash >> 29);
  return hash;
}

bool aligned(const void* p, std::uint64_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

struct Call {
  EmulatedLtOperation o;
  EmulatedLtLayout al, bl, cl;
  Shape s;
  const void *a, *b;
  const void* c;
  void* d;
  float alpha, beta;
};

float gelu_slope(float z) {
  const float cube = 0.044715f * z * z, t = std::tanh(0.7978845608f * z * (1 + cube));
  return 0.5f * (1 + t) + 0.5f * z * (1 - t * t) * 0.7978845608f * (1 + 3 * cube);
}

void multiply(const Call& x, std::int64_t matrix) {
  const std::int64_t a0 = matrix * x.al.stride, b0 = matrix * x.bl.stride, c0 = matrix * x.cl.stride;
  // op(a) by rows, so that the inner loop runs along memory.
  std::vector<float> a(static_cast<std::size_t>(x.s.m * x.s.k)), b(static_cast<std::size_t>(x.s.k)),
      sums(static_cast<std::size_t>(x.s.m));
  for (std::int64_t i = 0; i < x.s.m; ++i)
    for (std::int64_t k = 0; k < x.s.k; ++k)
      a[static_cast<std::size_t>(k * x.s.m + i)] =
          load(x.a, x.al.type, a0 + (x.o.a == CUBLAS_OP_T ? i * x.al.ld + k : k * x.al.ld + i));
  for (std::int64_t j = 0; j < x.s.n; ++j) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (std::int64_t k = 0; k < x.s.k; ++k) {
      const float f = load(x.b, x.bl.type, b0 + (x.o.b == CUBLAS_OP_T ? k * x.bl.ld + j : j * x.bl.ld + k));
      const float* column = a.data() + k * x.s.m;
      for (std::int64_t i = 0; i < x.s.m; ++i) sums[static_cast<std::size_t>(i)] += column[i] * f;
    }
    for (std::int64_t i = 0; i < x.s.m; ++i) {
      const std::int64_t at = c0 + j * x.cl.ld + i;
      float z = x.alpha * sums[static_cast<std::size_t>(i)];
      if (x.beta != 0) z += x.beta * load(x.c, x.cl.type, at);
      if (x.o.epilogue & CUBLASLT_EPILOGUE_BIAS) z += load(x.o.bias, x.o.bias_type, i);
      if (x.o.epilogue == CUBLASLT_EPILOGUE_DGELU)
        z *= gelu_slope(load(x.o.pre, x.cl.type, j * x.o.pre_ld + i));
      else if (x.o.epilogue & 128)
        store(x.o.pre, x.cl.type, j * x.o.pre_ld + i, z);
      if (x.o.epilogue & CUBLASLT_EPILOGUE_GELU)
        z = 0.5f * z * (1 + std::tanh(0.7978845608f * (z + 0.044715f * z * z * z)));
      store(x.d, x.cl.type, at, z);
    }
  }
}

template <class T>
cublasStatus_t take(T& to, const void* value, std::size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new EmulatedLtHandle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
std::size_t cublasLtGetVersion() { return 130100; }
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* o, cublasComputeType_t, cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  *o = new EmulatedLtOperation;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t o) {
  delete o;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t o,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(o->a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(o->b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(o->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(o->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return take(o->pre, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return take(o->pre_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
      return take(o->fast, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      o->has_bias_type = true;
      return take(o->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  *layout = new EmulatedLtLayout{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                std::size_t bytes) {
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return take(layout->batch, value, bytes);
  return take(layout->stride, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new EmulatedLtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return take(p->a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return take(p->b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return take(p->c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(p->d, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t o,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  auto& counts = spectrain::emulator::cublaslt_counts();
  ++counts.asked;
  *found = 0;
  Shape s{};
  if (!consistent(*o, *a, *b, *c, s)) return CUBLAS_STATUS_INVALID_VALUE;
  if ((s.m % 2 != 0 && s.n % 2 != 0 && s.k % 2 != 0) ||
      (eight_bits(a->type) && (!has_eight_bits(*o, *a, *b, *c) || preference->a < 16 || preference->b < 16 ||
                               preference->c < 16 || preference->d < 16))) {
    ++counts.refused;
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  for (; *found < wanted && *found < kAlgorithms; ++*found) {
    cublasLtMatmulHeuristicResult_t& r = results[*found];
    r = {};
    r.algo = {{kMagic, static_cast<std::uint64_t>(*found), fingerprint(*o, *a, *b, *c), preference->a,
               preference->b, preference->c, preference->d, 0}};
    r.workspaceSize = *found == 0 ? kWorkspaceNeeded : 0;
    if (r.workspaceSize > preference->workspace) r.state = CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  if (algorithm->data[0] != kMagic || algorithm->data[1] >= kAlgorithms ||
      algorithm->data[2] != fingerprint(*o, *a, *b, *c))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = algorithm->data[1] == 0 ? kWorkspaceNeeded : 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t o, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t al, const void* b, cublasLtMatrixLayout_t bl,
                              const void* beta, const void* c, cublasLtMatrixLayout_t cl, void* d,
                              cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  Call call{
      *o, *al, *bl, *cl, {}, a, b, c, d, *static_cast<const float*>(alpha), *static_cast<const float*>(beta)};
  const std::uint64_t* words = algorithm->data;
  if (!consistent(*o, *al, *bl, *cl, call.s) || words[0] != kMagic ||
      words[2] != fingerprint(*o, *al, *bl, *cl) || !aligned(a, words[3]) || !aligned(b, words[4]) ||
      !aligned(c, words[5]) || !aligned(d, words[6]))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (words[1] == 0 && (!workspace || workspace_bytes < kWorkspaceNeeded)) return CUBLAS_STATUS_INVALID_VALUE;
  // Kernels read bias and the value before GELU in packs of 16 bytes, whatever was promised of the rest.
  if (((o->epilogue & CUBLASLT_EPILOGUE_BIAS) && (!o->bias || !aligned(o->bias, 16))) ||
      ((o->epilogue & 128) && (!o->pre || !aligned(o->pre, 16))))
    return CUBLAS_STATUS_EXECUTION_FAILED;
  auto& counts = spectrain::emulator::cublaslt_counts();
  ++counts.products;
  if (eight_bits(al->type)) ++counts.eight_bit;
  if (o->fast) ++counts.fast_sums;
  counts.last_algorithm = static_cast<int>(words[1]);
  spectrain::emulator::enqueue(stream, [call] {
    for (std::int64_t i = 0; i < call.cl.batch; ++i) multiply(call, i);
  });
  return CUBLAS_STATUS_SUCCESS;
}

namespace spectrain {

namespace emulator {
CublasLtCounts& cublaslt_counts() {
  static CublasLtCounts counts;
  return counts;
}
void refuse_eight_bits(bool refuse) { refuses_eight_bits = refuse; }
}  // namespace emulator

const CublasLt& open_cublaslt() {
  static const CublasLt lt = {cublasLtCreate,
                              cublasLtDestroy,
                              cublasLtGetVersion,
                              cublasLtGetStatusName,
                              cublasLtMatmulDescCreate,
                              cublasLtMatmulDescDestroy,
                              cublasLtMatmulDescSetAttribute,
                              cublasLtMatrixLayoutCreate,
                              cublasLtMatrixLayoutDestroy,
                              cublasLtMatrixLayoutSetAttribute,
                              cublasLtMatmulPreferenceCreate,
                              cublasLtMatmulPreferenceDestroy,
                              cublasLtMatmulPreferenceSetAttribute,
                              cublasLtMatmulAlgoGetHeuristic,
                              cublasLtMatmulAlgoCheck,
                              cublasLtMatmul};
  return lt;
}

}  // namespace spectrain
