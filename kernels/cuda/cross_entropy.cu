#include <algorithm>
#include <string>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/softcap.h"
#include "kernels/cuda/words.h"

// Loss and gradient of a row of logits by one block. The row is read from memory once, into shared memory and
// into the running maximum and sum of its weights; the gradient is then made from shared memory. Rows that do
// not fit there, or are not made of whole packs, are read twice.
//
// Floor: each logit read, each gradient written: 200 KB for a row of 50304 in bf16, 8 us of a
// multiprocessor's share of 3.35 TB/s. In that time it can do 35 instructions and 4.4 special functions for
// each logit; both passes together take some 15 and 2 without a cap, 28 and 4 with the rational one, 35 and 6
// with tanh. So two blocks share a multiprocessor, one computing while the other waits for memory, and
// nothing is computed that is not needed: a cap shares its exponential between value and slope, and no pass
// waits for the maximum of another.
//
// The host does not see the targets, so one outside the vocabulary cannot be refused here: its loss and its
// gradients are NaN.

namespace spectrain {
namespace {

constexpr int kMost = 512;  // threads of a block

template <class T, class D>
struct Rows {
  const T* logits;
  const std::int32_t* targets;
  std::int64_t rows;
  int columns, vocab;
  float gradient_scale;
  float* losses;
  D* dlogits;  // null: losses only
};

// The weights of a row relative to the largest (in the cap's units), summed over all but the target: where
// the model is nearly certain, the others are all that loss and gradient are made of, and next to a one they
// would drop out of a float.
struct Weights {
  float largest, others;
};

template <class Cap>
__device__ inline float weight(const Cap& cap, float units, float largest) {
  return fast_exp2(cap.exponent(units, cap.pivot(largest)));
}

// Of all threads of the block; `store` may be used again after the next barrier but one.
template <class Cap>
__device__ inline Weights block_weights(const Cap& cap, Weights w, float (*store)[2]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float largest = warp_max(w.largest);
  float others = warp_sum(w.others * weight(cap, w.largest, largest));
  if (lane == 0) {
    store[warp][0] = largest;
    store[warp][1] = others;
  }
  __syncthreads();
  w = lane < warps ? Weights{store[lane][0], store[lane][1]} : Weights{Cap::kLowest, 0};
  largest = warp_max(w.largest);
  others = warp_sum(w.others * weight(cap, w.largest, largest));
  return {largest, others};
}

// Every thread deals with the same packs in both passes, so what it keeps in shared memory is its own, and a
// gradient may overwrite its logit.
template <class Cap, class T, class D, int N, bool kept>
struct Row {
  const Rows<T, D>& a;
  const Cap& cap;
  const T* z;
  Words<T, N>* row;  // in shared memory, when kept
  int target;

  __device__ void add(Words<T, N> words, int p, int packs, Weights& w) const {
    if constexpr (kept) row[p] = words;
    const Pack<T, N> x = to_pack<T, N>(words);
    float units[N], sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) units[k] = cap.template at<FastMath>(widen(x.v[k])).units;
    if (p == target / N || p == packs - 1) {
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (p * N + k == target || p * N + k >= a.vocab) units[k] = -INFINITY;
    }
    float largest = w.largest;
#pragma unroll
    for (int k = 0; k < N; ++k) largest = fmaxf(largest, units[k]);
    const float pivot = cap.pivot(largest);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += fast_exp2(cap.exponent(units[k], pivot));
    w.others = fmaf(w.others, fast_exp2(cap.exponent(w.largest, pivot)), sum);
    w.largest = largest;
  }

  __device__ Weights read() const {
    constexpr int kFlight = 4;  // packs in flight for each thread
    const int packs = (a.vocab + N - 1) / N, step = static_cast<int>(blockDim.x);
    Weights w{Cap::kLowest, 0};
    int p = static_cast<int>(threadIdx.x);
    for (; p + (kFlight - 1) * step < packs; p += kFlight * step) {
      Words<T, N> words[kFlight];
#pragma unroll
      for (int k = 0; k < kFlight; ++k) words[k] = load_words<N>(z + (p + k * step) * N);
#pragma unroll
      for (int k = 0; k < kFlight; ++k) add(words[k], p + k * step, packs, w);
    }
    for (; p < packs; p += step) add(load_words<N>(z + p * N), p, packs, w);
    return w;
  }

  // factor = gradient_scale / the sum of all weights
  __device__ void write(D* d, float largest, float factor, float at_target) const {
    const int packs = (a.columns + N - 1) / N, own = target / N, whole = a.vocab / N;
    const float pivot = cap.pivot(largest);
    for (int i = static_cast<int>(threadIdx.x); i < packs; i += static_cast<int>(blockDim.x)) {
      Pack<D, N> out;
      if (i * N < a.vocab) {
        Pack<T, N> x;
        if constexpr (kept)
          x = to_pack<T, N>(row[i]);
        else
          x = load_some<N>(z + i * N);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const Capped c = cap.template at<FastMath>(widen(x.v[k]));
          out.v[k] = narrow<D>(factor * fast_exp2(cap.exponent(c.units, pivot)) * c.slope);
        }
        if (i == own || i >= whole) {
#pragma unroll
          for (int k = 0; k < N; ++k) {
            if (i * N + k == target) out.v[k] = narrow<D>(at_target);
            if (i * N + k >= a.vocab) out.v[k] = narrow<D>(0.0f);
          }
        }
      } else {
        for (int k = 0; k < N; ++k) out.v[k] = narrow<D>(0.0f);
      }
      store_some(d + i * N, out);
    }
  }
};

template <int N, class D>
__device__ inline void fill_row(D* d, int columns, float value) {
  Pack<D, N> x;
  for (int k = 0; k < N; ++k) x.v[k] = narrow<D>(value);
  for (int i = static_cast<int>(threadIdx.x); i < columns / N; i += static_cast<int>(blockDim.x))
    store_some(d + i * N, x);
}

template <class Cap, class T, class D, int N, bool kept>
__global__ void __launch_bounds__(kMost, 2) cross_entropy_kernel(Rows<T, D> a, Cap cap) {
  __shared__ float store[2][kWarp][2];  // of this row and of the one before: one barrier a row is enough
  int turn = 0;
  for (std::int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const T* z = a.logits + r * a.columns;
    D* d = a.dlogits ? a.dlogits + r * a.columns : nullptr;
    const int target = a.targets[r];
    if (target < 0 || target >= a.vocab) {
      const float value = target == -1 ? 0 : NAN;
      if (threadIdx.x == 0) a.losses[r] = value;
      if (d) fill_row<N>(d, a.columns, value);
      continue;
    }
    const Row<Cap, T, D, N, kept> row{a, cap, z, static_cast<Words<T, N>*>(dynamic_shared()), target};
    const float own_logit = widen(z[target]);  // before anybody writes
    const Weights w = block_weights(cap, row.read(), store[turn]);
    turn ^= 1;
    const Capped own = cap.template at<ExactMath>(own_logit);
    const float own_weight = exp2f(cap.exponent(own.units, cap.pivot(w.largest)));
    const float total = w.others + own_weight;
    if (threadIdx.x == 0)
      a.losses[r] = own_weight > w.others ? log1pf(w.others / own_weight)
                                          : (w.largest - own.units) * cap.natural + logf(total);
    if (d)
      row.write(d, w.largest, a.gradient_scale / total, -a.gradient_scale * (w.others / total) * own.slope);
  }
}

constexpr std::size_t kReserved =
    2048;  // shared memory of a block beside the row, the system's share included

template <class Cap, class T, class D, int N, bool kept>
void start(const CudaBackend& b, const Rows<T, D>& a, const Cap& cap) {
  const int threads = a.columns >= 8192 ? kMost : 128;
  const auto kernel = &cross_entropy_kernel<Cap, T, D, N, kept>;
  std::size_t shared = 0;
  int blocks = 2048 / threads;
  if (kept) {
    shared = static_cast<std::size_t>(a.columns) * sizeof(T);
    blocks = std::clamp(static_cast<int>(b.shared_memory_limit() / (shared + kReserved)), 1, blocks);
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100),
               "asking for shared memory");
  }
  launch(b.stream(), {b.blocks_for(a.rows, blocks), static_cast<unsigned>(threads), shared}, kernel, a, cap);
}

template <class T>
bool in_packs(const T* p, int n, int columns) {
  return columns % n == 0 &&
         reinterpret_cast<std::uintptr_t>(p) % (static_cast<std::size_t>(n) * sizeof(T)) == 0;
}

template <class Cap, class T, class D>
void start_rows(const CudaBackend& b, const Rows<T, D>& a, const Cap& cap) {
  constexpr int kN = kPack<T>;
  const bool fits = static_cast<std::size_t>(a.columns) * sizeof(T) + kReserved <= b.shared_memory_limit();
  if (!in_packs(a.logits, kN, a.columns) || !in_packs(a.dlogits, kN, a.columns))
    start<Cap, T, D, 1, false>(b, a, cap);
  else if (fits && a.dlogits)
    start<Cap, T, D, kN, true>(b, a, cap);
  else
    start<Cap, T, D, kN, false>(b, a, cap);
}

template <class T, class D>
void start_capped(const CudaBackend& b, const Rows<T, D>& a, const Softcap& cap) {
  switch (cap.kind) {
    case Softcap::Kind::none:
      return start_rows(b, a, NoCap(cap));
    case Softcap::Kind::tanh:
      return start_rows(b, a, TanhCap(cap));
    case Softcap::Kind::sigmoid:
      return start_rows(b, a, SigmoidCap(cap));
    case Softcap::Kind::rational:
      return start_rows(b, a, RationalCap(cap));
  }
}

void check(const Tensor& logits, const Tensor& targets, std::int64_t vocab, const Softcap& cap,
           const Tensor& losses, const Tensor& dlogits) {
  constexpr const char* kernel = "cross_entropy";
  const std::int64_t rows = logits.rows(), columns = logits.cols();
  require_vector(targets, DType::i32, rows, rows == 0, kernel, "targets");
  require_vector(losses, DType::f32, rows, rows == 0, kernel, "losses");
  require(vocab >= 1 && vocab <= columns, kernel,
          [&] { return "vocab " + std::to_string(vocab) + " does not fit logits " + logits.shape.str(); });
  require(columns < (1 << 30), kernel, "more columns than a 32-bit number counts");
  if (dlogits) {
    require(dlogits.numel() == logits.numel(), kernel, [&] {
      return "dlogits " + dlogits.shape.str() + " and logits " + logits.shape.str() + " differ";
    });
    require(dlogits.data != logits.data || dlogits.dtype == logits.dtype, kernel, "in place means one dtype");
  }
  require(cap.kind == Softcap::Kind::none || cap.cap > 0, kernel,
          [&] { return "a softcap of " + std::to_string(cap.cap); });
  require(cap.kind != Softcap::Kind::sigmoid || cap.divisor != 0, kernel, "a softcap with divisor 0");
}

}  // namespace

void CudaBackend::cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab,
                                const Softcap& cap, double gradient_scale, const Tensor& losses,
                                const Tensor& dlogits) {
  check(logits, targets, vocab, cap, losses, dlogits);
  if (logits.rows() == 0) return;
  with_compute(logits, "cross_entropy", [&](const auto* z) {
    using T = std::remove_cv_t<Element<decltype(z)>>;
    const auto start = [&](auto* d) {
      Rows<T, Element<decltype(d)>> a{};
      a.logits = z;
      a.targets = targets.as<std::int32_t>();
      a.rows = logits.rows();
      a.columns = static_cast<int>(logits.cols());
      a.vocab = static_cast<int>(vocab);
      a.gradient_scale = static_cast<float>(gradient_scale);
      a.losses = losses.as<float>();
      a.dlogits = d;
      start_capped(*this, a, cap);
    };
    if (dlogits)
      with_compute(dlogits, "cross_entropy", start);
    else
      start(static_cast<T*>(nullptr));
  });
}

}  // namespace spectrain
