#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "train/lab/dense.h"
#include "train/lab/memory.h"
#include "train/lab/own_rule.h"

namespace spectrain::lab {

// The whole weight of the associative memory (memory.h), [K, K], in coordinates that know nothing of the
// embeddings: those of inputs and outputs are random orthogonal matrices, so that an optimizer which looks at
// single elements sees what it would see in a network.
class RotatedMemory {
 public:
  RotatedMemory(const MemoryTask& task, std::uint64_t seed);

  // G in the embeddings' basis and in the weight's coordinates, and p(j|j) by group, for a weight in its
  // coordinates.
  struct Seen {
    Matrix in_basis, gradient;
    std::vector<double> correct;
    double excess = 0;
  };
  Seen look(const Matrix& weight) const;
  Matrix to_coordinates(const Matrix& in_basis) const;  // E~ X E^T
  Matrix to_basis(const Matrix& weight) const;          // E~^T W E

 private:
  MemoryTask task_;
  Matrix inputs_, outputs_, inputs_t_, outputs_t_;
};

// Of the logits [K, K] in the basis: G, p(j|j) by group and the excess. What `look` computes after its
// rotation.
RotatedMemory::Seen memory_gradient(const MemoryTask& task, const Matrix& logits);

enum class FullRule : std::uint8_t {
  gradient,
  normalized,
  orthogonal,     // U V^T by SVD, float64
  newton_schulz,  // Keller Jordan's five steps, float64
  sign_in_basis,
  sign,          // of the weight's own elements
  adam,          // beta 0.9 and 0.99
  own_muon,      // the program's muon, float32: Newton-Schulz
  own_spectral,  // the program's spectral_descent, float32
};

// A weight under one rule, without momentum (but Adam's).
class MemoryTraining {
 public:
  MemoryTraining(const RotatedMemory& memory, const MemoryTask& task, FullRule rule, double eta,
                 Backend& backend);
  RotatedMemory::Seen seen() const { return memory_.look(weight_); }
  void step(const RotatedMemory::Seen& seen);  // of the current weight
  const Matrix& weight() const { return weight_; }

 private:
  Matrix direction(const RotatedMemory::Seen& seen);

  const RotatedMemory& memory_;
  FullRule rule_;
  double eta_;
  Matrix weight_, first_, second_;  // Adam's moments
  std::unique_ptr<OwnRule> own_;
  int steps_ = 0;
};

}  // namespace spectrain::lab
