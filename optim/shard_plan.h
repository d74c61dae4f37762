#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "optim/groups.h"

// Who updates what when several ranks train one model: a pure function of shapes, roles, splits and the
// number of ranks, the same on every rank.
//
// Parameters are collected in buckets, in the order in which the backward pass completes their gradients (the
// reverse of their declaration), so that a bucket can be reduced while earlier layers are still computed. A
// bucket is a flat stretch of memory in one block per rank: rank r receives the sum of all ranks' gradients
// of block r (reduce-scatter), updates it, and sends the new weights to all (all-gather). That is the traffic
// of ZeRO-1; optimizer state and master weights exist once.
//
// Matrices of matrix rules (Muon) are never cut: a block is a set of whole matrices, a fused parameter's
// splits being matrices of their own. In each bucket they are dealt, largest first, to the bin with the
// fewest numbers; then the bin that costs the most FLOPs goes to the rank with the least to do so far. Bins
// are padded to the largest one. Where that would pad too much (many ranks, few matrices), the bucket is
// `grouped`: blocks have their own lengths and each is reduced to, and sent from, its rank.
//
// Tensors of element-wise rules (AdamW) are laid one behind the other and cut into equal blocks wherever the
// cut falls.

namespace spectrain {

struct ShardPiece {
  Piece piece;
  std::size_t parameter = 0;
  std::int64_t element = 0;  // first element, counted in the parameter
  int rank = 0;
  std::int64_t offset = 0;  // elements from the start of the bucket
  double flops = 0;         // of its update
  std::int64_t numel() const { return piece.shape.numel(); }
};

struct Bucket {
  std::string name;       // "bucket 3"
  bool matrices = false;  // of matrix rules
  bool grouped = false;   // blocks of unequal length
  // What ranks send each other of new weights: the master dtype where the forward pass reads master values
  // (embeddings, gains, biases), the compute dtype where it reads a matrix in its prepared form only.
  DType weights = DType::f32;
  std::vector<std::size_t> parameters;  // in the order of the layout
  std::vector<ShardPiece> pieces;       // by offset
  std::vector<std::int64_t> starts;     // of the ranks' blocks, elements; and the end: ranks + 1 entries

  std::int64_t elements() const { return starts.back(); }  // padding included
  std::int64_t block(int rank) const {
    return starts[static_cast<std::size_t>(rank) + 1] - starts[static_cast<std::size_t>(rank)];
  }
  std::int64_t numbers() const;  // without padding
};

struct ShardOptions {
  std::int64_t bucket_bytes = 40 << 20;  // of gradients: a bucket is closed when it is this large, and ...
  double most_padding = 1.3;             // elements / numbers from which a bucket is grouped
  DType master = DType::f32;
};

struct RankShare {
  std::int64_t matrices = 0, matrix_numbers = 0, flat_numbers = 0;
  double flops = 0;  // of the matrix rules
};

struct ShardPlan {
  int ranks = 1;
  std::vector<Bucket> buckets;
  std::vector<RankShare> shares;

  double imbalance() const;  // max / mean of the ranks' matrix FLOPs; 1 without matrices
  double padding() const;    // elements / numbers of the matrix buckets; 1 without matrices
  // Payload that one rank sends per step: the largest over ranks, gradients (master dtype) and new weights.
  std::uint64_t gradient_bytes(int rank, DType master) const;
  std::uint64_t weight_bytes(int rank) const;
  // The pieces of a rank in the order Optimizer wants them (group, member, part, first).
  std::vector<ShardPiece> pieces_of(int rank) const;
};

// `weights[i]`: the dtype in which parameter i travels (Bucket::weights). Throws std::logic_error for ranks
// < 1.
ShardPlan plan_shards(std::span<const ParameterInfo* const> parameters, const OptimizerPlan& groups,
                      std::span<const DType> weights, int ranks, const ShardOptions& options);

// One line per rank: matrices, numbers, state, FLOPs; then balance, padding, traffic.
std::string describe(const ShardPlan& plan, DType master);

}  // namespace spectrain
