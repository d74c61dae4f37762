#include <string>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/token_order.h"
#include "kernels/cuda/words.h"

// The host does not see the tokens, so a wild one cannot be refused here: its row of the output is NaN, which
// every loss after it shows, and its gradient goes nowhere.

namespace spectrain {
namespace {

constexpr int kRows = 8;  // a warp for each row, 8 rows a block

// Floor: out written; the table's rows come from memory once and then mostly from the level-2 cache, and so
// do the positions.
template <int N, class T>
__global__ void __launch_bounds__(kRows* kWarp)
    embedding_kernel(const std::int32_t* tokens, const float* table, const float* positions,
                     std::int64_t context, std::int64_t rows, std::int32_t vocab, std::int64_t cols, T* out) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * kRows + warp; r < rows;
       r += static_cast<std::int64_t>(gridDim.x) * kRows) {
    const std::int32_t token = tokens[r];
    const bool known = token >= 0 && token < vocab;
    const float* row = table + (known ? token : 0) * cols;
    const float* position = positions ? positions + r % context * cols : nullptr;
#pragma unroll 4
    for (std::int64_t c = lane * N; c < cols; c += kWarp * N) {
      Pack<float, N> x = load_some<N>(row + c);
      if (position) {
        const Pack<float, N> p = load_some<N>(position + c);
        for (int k = 0; k < N; ++k) x.v[k] += p.v[k];
      }
      Pack<T, N> y;
      for (int k = 0; k < N; ++k) y.v[k] = narrow<T>(known ? x.v[k] : NAN);
      store_some(out + r * cols + c, y);
    }
  }
}

// ---- the table's gradient
//
// The rows, sorted by token, are cut into chunks of 64. A block adds the rows of a chunk, run by run of one
// token. A run that lies in one chunk goes to the table at once; of one that crosses borders each chunk
// leaves a partial sum, and the block of the chunk where it begins adds those in order. So the work is the
// same for every distribution of tokens, one token a hundred thousand times included, and each element of the
// table gets one addition, of a sum whose order the tokens alone decide.
// Floor: dout read, and each row of the table that a token names read and written. The partial sums are up
// to a sixteenth of dout's elements, written and read (they stay in the level-2 cache).

constexpr int kChunk = 64;
constexpr int kStrip = 64;  // threads of a block, each N columns
constexpr int kFlight = 8;  // rows in flight for each thread

struct Chunks {
  const std::int32_t *tokens, *order;
  std::int64_t rows, cols, count;
  std::int32_t vocab;
  float* partial;              // [count][2][cols]: of the run that came from before, of the one that goes on
  std::int32_t *first, *last;  // [count]: keys of a chunk's ends
};

template <int N>
__device__ inline void add_to_table(float* dtable, std::int64_t at, const float* sum) {
  Pack<float, N> x = load_some<N>(dtable + at);
  for (int i = 0; i < N; ++i) x.v[i] += sum[i];
  store_some(dtable + at, x);
}

template <int N, class T>
__global__ void __launch_bounds__(kStrip) add_runs_kernel(Chunks a, const T* dout, float* dtable) {
  __shared__ std::int32_t rows[kChunk], store[kChunk + 2];
  std::int32_t* keys = store + 1;  // keys[-1], keys[n]: of the neighbours; -1 where there is none
  const std::int64_t strips = (a.cols + kStrip * N - 1) / (kStrip * N);
  const int thread = static_cast<int>(threadIdx.x);
  for (std::int64_t work = blockIdx.x; work < a.count * strips; work += gridDim.x) {
    const std::int64_t chunk = work / strips, begin = chunk * kChunk;
    const std::int64_t col = (work % strips * kStrip + thread) * N;
    const int n = static_cast<int>(a.rows - begin < kChunk ? a.rows - begin : kChunk);
    for (int j = thread - 1; j <= n; j += kStrip) {
      const std::int64_t at = begin + j;
      const bool inside = at >= 0 && at < a.rows;
      const std::int32_t row = inside ? a.order[at] : 0;
      keys[j] = inside ? token_key(a.tokens[row], a.vocab) : -1;
      if (j >= 0 && j < n) rows[j] = row;
    }
    __syncthreads();
    if (work % strips == 0 && thread == 0) {
      a.first[chunk] = keys[0];
      a.last[chunk] = keys[n - 1];
    }
    if (col < a.cols) {
      float sum[N] = {};
      bool from_before = keys[-1] == keys[0];
      for (int j = 0; j < n; j += kFlight) {
        Words<T, N> words[kFlight];
#pragma unroll
        for (int k = 0; k < kFlight; ++k)
          if (j + k < n) words[k] = load_words<N>(dout + rows[j + k] * a.cols + col);
#pragma unroll
        for (int k = 0; k < kFlight; ++k) {
          if (j + k >= n) continue;
          const Pack<T, N> x = to_pack<T, N>(words[k]);
          for (int i = 0; i < N; ++i) sum[i] += widen(x.v[i]);
          const bool goes_on = keys[j + k + 1] == keys[j + k];
          if (goes_on && j + k + 1 < n) continue;
          if (from_before || goes_on) {
            float* to = a.partial + (2 * chunk + (from_before ? 0 : 1)) * a.cols + col;
            Pack<float, N> partial;
            for (int i = 0; i < N; ++i) partial.v[i] = sum[i];
            store_some(to, partial);
          } else if (keys[j + k] < a.vocab) {
            add_to_table<N>(dtable, keys[j + k] * a.cols + col, sum);
          }
          from_before = false;
          for (int i = 0; i < N; ++i) sum[i] = 0;
        }
      }
    }
    __syncthreads();
  }
}

// The runs that go from one chunk into the next, each by the block of the chunk where it begins.
template <int N>
__global__ void __launch_bounds__(kStrip) add_crossing_runs_kernel(Chunks a, float* dtable) {
  const std::int64_t strips = (a.cols + kStrip * N - 1) / (kStrip * N);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t work = blockIdx.x; work < a.count * strips; work += gridDim.x) {
    const std::int64_t chunk = work / strips;
    const std::int64_t col = (work % strips * kStrip + threadIdx.x) * N;
    const std::int32_t key = a.last[chunk];
    const bool began_before = chunk > 0 && a.first[chunk] == key && a.last[chunk - 1] == key;
    if (began_before || key >= a.vocab) continue;
    std::int64_t end = chunk + 1;  // the first chunk that does not begin with this run
    while (true) {
      const bool same = end + lane < a.count && a.first[end + lane] == key;
      const unsigned votes = ~__ballot_sync(kWholeWarp, same);
      if (votes != 0) {
        end += __ffs(static_cast<int>(votes)) - 1;
        break;
      }
      end += kWarp;
    }
    if (end == chunk + 1 || col >= a.cols) continue;
    Pack<float, N> sum = load_some<N>(a.partial + (2 * chunk + 1) * a.cols + col);
#pragma unroll 4
    for (std::int64_t c = chunk + 1; c < end; ++c) {
      const Pack<float, N> x = load_some<N>(a.partial + 2 * c * a.cols + col);
      for (int i = 0; i < N; ++i) sum.v[i] += x.v[i];
    }
    add_to_table<N>(dtable, key * a.cols + col, sum.v);
  }
}

// ---- the positions' gradient: rows of one position in the order of the batch. Floor: dout read.
template <int N, class T>
__global__ void __launch_bounds__(256)
    positions_kernel(const T* dout, std::int64_t rows, std::int64_t context, std::int64_t cols,
                     float* dpositions) {
  SPECTRAIN_GRID_LOOP(i, context * (cols / N)) {
    const std::int64_t t = i / (cols / N), col = i % (cols / N) * N;
    float sum[N] = {};
#pragma unroll 8
    for (std::int64_t r = t; r < rows; r += context) {
      const Pack<T, N> x = load_some<N>(dout + r * cols + col);
      for (int k = 0; k < N; ++k) sum[k] += widen(x.v[k]);
    }
    if (t < rows) add_to_table<N>(dpositions, t * cols + col, sum);
  }
}

constexpr int kN = 4;  // columns of a thread where addresses and width allow it

template <class T>
bool in_packs(const T* p, std::int64_t cols) {
  return cols % kN == 0 && aligned_for(kN, p);
}

void require_positions(const Tensor& positions, std::int64_t context, std::int64_t cols, const char* kernel) {
  if (!positions) return;
  require(positions.dtype == DType::f32 && positions.cols() == cols, kernel,
          "positions must be f32 and as wide as the table");
  require(context > 0 && positions.rows() >= context, kernel, "positions has fewer rows than the context");
}

std::size_t in_lines(std::size_t bytes) { return (bytes + 127) / 128 * 128; }

template <int N, class T>
void add_to_tokens(CudaBackend& b, const Chunks& a, const T* dout, float* dtable) {
  const std::int64_t work = a.count * ((a.cols + kStrip * N - 1) / (kStrip * N));
  const Grid grid{b.blocks_for(work, 32), kStrip};
  launch(b.stream(), grid, add_runs_kernel<N, T>, a, dout, dtable);
  launch(b.stream(), grid, add_crossing_runs_kernel<N>, a, dtable);
}

template <class T>
void table_gradient(CudaBackend& b, const Tensor& tokens, const T* dout, const Tensor& dtable) {
  Chunks a{};
  a.tokens = tokens.as<std::int32_t>();
  a.rows = tokens.numel();
  a.cols = dtable.cols();
  a.vocab = static_cast<std::int32_t>(dtable.rows());
  a.count = (a.rows + kChunk - 1) / kChunk;
  // Scratch: the partial sums, what the sort needs, the order, the chunks' ends.
  const std::size_t partial = in_lines(static_cast<std::size_t>(2 * a.count * a.cols) * sizeof(float));
  const std::size_t sort = in_lines(token_order_bytes(a.rows));
  auto* memory = static_cast<std::byte*>(
      b.scratch(partial + sort + static_cast<std::size_t>(a.rows + 2 * a.count) * sizeof(std::int32_t)));
  a.partial = reinterpret_cast<float*>(memory);
  auto* order = reinterpret_cast<std::int32_t*>(memory + partial + sort);
  a.order = order;
  a.first = order + a.rows;
  a.last = a.first + a.count;
  order_by_token(b, a.tokens, a.rows, a.vocab, memory + partial, order);
  auto* table = dtable.as<float>();
  if (in_packs(dout, a.cols) && in_packs(table, a.cols))
    add_to_tokens<kN>(b, a, dout, table);
  else
    add_to_tokens<1>(b, a, dout, table);
}

template <int N, class T>
void start_positions(const CudaBackend& b, const T* dout, std::int64_t rows, std::int64_t context,
                     std::int64_t cols, float* dpositions) {
  launch(b.stream(), {b.blocks_for((context * (cols / N) + 255) / 256), 256}, positions_kernel<N, T>, dout,
         rows, context, cols, dpositions);
}

}  // namespace

void CudaBackend::embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions,
                            std::int64_t context, const Tensor& out) {
  const std::int64_t R = tokens.numel(), C = table.cols();
  require(table.dtype == DType::f32, "embedding", "the table must be f32");
  require(out.numel() == R * C, "embedding", "out must be [tokens, width of the table]");
  require_positions(positions, context, C, "embedding");
  if (out.numel() == 0) return;
  const float* from = table.as<float>();
  const float* add = positions ? positions.as<float>() : nullptr;
  with_compute(out, "embedding", [&](auto* to) {
    using T = Element<decltype(to)>;
    const auto start = [&](auto kernel) {
      launch(stream_, {blocks_for((R + kRows - 1) / kRows), kRows * kWarp}, kernel, tokens.as<std::int32_t>(),
             from, add, context, R, static_cast<std::int32_t>(table.rows()), C, to);
    };
    if (in_packs(from, C) && in_packs(add, C) && in_packs(to, C))
      start(&embedding_kernel<kN, T>);
    else
      start(&embedding_kernel<1, T>);
  });
}

void CudaBackend::embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                                     const Tensor& dtable, const Tensor& dpositions) {
  const std::int64_t R = tokens.numel(), C = dout.cols();
  require(dout.rows() == R, "embedding_backward", "dout must have one row for each token");
  require(R < INT32_MAX, "embedding_backward", "more rows than a 32-bit number counts");
  require_positions(dpositions, context, C, "embedding_backward");
  if (dtable)
    require(dtable.cols() == C && dtable.dtype == DType::f32, "embedding_backward",
            "dtable must be f32 and as wide as dout");
  if (dout.numel() == 0) return;
  with_compute(dout, "embedding_backward", [&](const auto* from) {
    using T = std::remove_cv_t<Element<decltype(from)>>;
    if (dtable) table_gradient<T>(*this, tokens, from, dtable);
    if (!dpositions) return;
    auto* to = dpositions.as<float>();
    if (in_packs(from, C) && in_packs(to, C))
      start_positions<kN, T>(*this, from, R, context, C, to);
    else
      start_positions<1, T>(*this, from, R, context, C, to);
  });
}

}  // namespace spectrain
