#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "kernels/cuda/elementwise.h"

// One launch for many tensors. Most tensors of a model are small: started one by one, each costs a launch
// more than it costs bytes. The list travels as the launch's own parameter, so that nothing has to stay alive
// until the device reads it, and a recorded launch keeps its copy. Only for .cu files.

namespace spectrain {

// P: pointers into one tensor of each kind, with `bool aligned() const` (on the host): all of them may be
// taken four elements at a time.
// kPiece: elements that a block takes at a time.
template <class P, std::int64_t kPiece>
struct Many {
  // A launch's parameters are 4 KiB at most.
  static constexpr int kMost = static_cast<int>(3500 / (sizeof(P) + 2 * sizeof(std::int64_t) + 1));
  P of[kMost];
  std::int64_t n[kMost];      // elements
  std::int64_t first[kMost];  // piece, counted over all
  bool fours[kMost];          // aligned
  std::int64_t pieces = 0;
  int count = 0;

  void add(const P& pointers, std::int64_t elements) {
    if (elements == 0) return;
    of[count] = pointers;
    n[count] = elements;
    fours[count] = pointers.aligned();
    first[count++] = pieces;
    pieces += (elements + kPiece - 1) / kPiece;
  }
  bool full() const { return count == kMost; }
};

// The tensor that piece p belongs to: the last one whose first piece is not behind it.
template <class P, std::int64_t kPiece>
__device__ inline int owner_of(const Many<P, kPiece>& many, std::int64_t p) {
  int low = 0, high = many.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (many.first[middle] <= p ? low : high) = middle;
  }
  return low;
}

constexpr std::int64_t kElementPiece = 16 * kElementThreads;

// body.begin() takes what the body reads from memory, and says whether there is anything to do;
// body.template some<N>(pointers, i) does elements [i, i + N) of one tensor.
template <class Body, class P>
__global__ void __launch_bounds__(kElementThreads)
    many_kernel(Body body, const __grid_constant__ Many<P, kElementPiece> many) {
  constexpr std::int64_t kPiece = kElementPiece;
  if (!body.begin()) return;
  for (std::int64_t p = blockIdx.x; p < many.pieces; p += gridDim.x) {
    const int t = owner_of(many, p);
    const P& of = many.of[t];
    const std::int64_t begin = (p - many.first[t]) * kPiece;
    const std::int64_t end = begin + kPiece < many.n[t] ? begin + kPiece : many.n[t];
    const std::int64_t fours = many.fours[t] ? begin + (end - begin) / 4 * 4 : begin;
    for (std::int64_t i = begin + 4 * threadIdx.x; i < fours; i += 4 * kElementThreads)
      body.template some<4>(of, i);
    for (std::int64_t i = fours + threadIdx.x; i < end; i += kElementThreads) body.template some<1>(of, i);
  }
}

// pointers(item) -> P and size(item) -> elements, of every item; as few launches as the parameters allow.
template <std::int64_t kPiece, class Item, class Pointers, class Size, class Launch>
void each_many(std::span<const Item> items, Pointers pointers, Size size, Launch start) {
  Many<decltype(pointers(items[0])), kPiece> many;
  for (const Item& item : items) {
    many.add(pointers(item), size(item));
    if (!many.full()) continue;
    start(many);
    many.count = 0, many.pieces = 0;
  }
  if (many.count > 0) start(many);
}

template <class Body, class Item, class Pointers, class Size>
void launch_many(const CudaBackend& b, const Body& body, std::span<const Item> items, Pointers pointers,
                 Size size) {
  each_many<kElementPiece>(items, pointers, size, [&](const auto& many) {
    using P = std::remove_cvref_t<decltype(many.of[0])>;
    launch(b.stream(), {b.blocks_for(many.pieces), kElementThreads}, many_kernel<Body, P>, body, many);
  });
}

}  // namespace spectrain
