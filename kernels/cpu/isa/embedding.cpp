#include "kernels/cpu/isa/embedding.h"

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using u16 = std::uint16_t;

template <class T>
void forward(const EmbeddingForward& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t C = p.cols;
  for (std::int64_t r = begin; r < end; ++r) {
    const float* __restrict row = p.table + p.tokens[r] * C;
    T* __restrict out = static_cast<T*>(p.out) + r * C;
    if (p.positions) {
      const float* __restrict position = p.positions + r % p.context * C;
      for (std::int64_t c = 0; c < C; ++c) store(out + c, row[c] + position[c]);
    } else {
      for (std::int64_t c = 0; c < C; ++c) store(out + c, row[c]);
    }
  }
}

// A thread owns columns, not tokens: each element of the table then receives its rows in the order of the
// tokens, whatever the number of threads, and no two threads touch one element.
template <class T>
void backward(const EmbeddingBackward& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t C = p.cols;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const T* __restrict d = static_cast<const T*>(p.dout) + r * C;
    if (p.dtable) {
      float* __restrict row = p.dtable + p.tokens[r] * C;
      for (std::int64_t c = begin; c < end; ++c) row[c] += load(d + c);
    }
    if (p.dpositions) {
      float* __restrict row = p.dpositions + r % p.context * C;
      for (std::int64_t c = begin; c < end; ++c) row[c] += load(d + c);
    }
  }
}

}  // namespace

const EmbeddingTable embedding_table = {{forward<float>, forward<u16>}, {backward<float>, backward<u16>}};

}  // namespace spectrain::SPECTRAIN_ISA
