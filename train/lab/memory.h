#pragma once

#include <cstdint>
#include <vector>

#include "optim/option.h"
#include "train/lab/dense.h"

// The linear associative memory of arXiv 2602.05725: K items, an input embedding E_j and an output embedding
// E~_j each, both orthonormal, and one matrix W that answers
//
//   p(i|j) = softmax over i of E~_i^T W E_j
//
// K = M C items in M groups of C; an item of group g is asked for with probability p_g / C, p_g ~ g^-beta;
// the answer is the item itself with probability q = 1 - alpha + alpha / K and any other with alpha / K. The
// loss is the expected cross entropy, its excess that above the entropy of the answers. In the basis of the
// embeddings the gradient is G_ij = p_j (p(i|j) - the answer's probability).

namespace spectrain::lab {

struct MemoryTask {
  MemoryTask(std::int64_t groups, std::int64_t per_group, double beta, double alpha);

  std::int64_t items() const { return groups * per_group; }
  double share(std::int64_t g) const { return shares[static_cast<std::size_t>(g)]; }
  double frequency(std::int64_t g) const { return share(g) / static_cast<double>(per_group); }  // of one item
  double right() const { return 1 - alpha + wrong(); }                                          // q
  double wrong() const { return alpha / static_cast<double>(items()); }
  double entropy() const;  // of the answers to one item, nats

  std::int64_t groups, per_group;
  double alpha;
  std::vector<double> shares;  // [groups], sum 1
};

// From W = 0 and with updates that treat the items of a group alike, W stays of the form
//
//   W = diag(a_g I_C) + blocks of constants b_hg      h the row's group, g the column's
//
// in the basis of the embeddings, so that 2 numbers for every pair of groups stand for K x K, without
// approximation. The same form serves gradients and updates.
struct GroupedMatrix {
  explicit GroupedMatrix(std::int64_t groups) : a(static_cast<std::size_t>(groups)), b(groups, groups) {}
  void add_scaled(double q, const GroupedMatrix& other);
  std::vector<double> a;
  Matrix b;
};

// The matrix [K, K] that it stands for.
Matrix expanded(const GroupedMatrix& w, std::int64_t per_group);

struct MemoryState {
  GroupedMatrix gradient;
  std::vector<double> excess;   // by group, of one item, nats
  std::vector<double> correct;  // by group: p(j|j)
  double total = 0;             // sum over groups of share * excess
};
MemoryState evaluate(const MemoryTask& task, const GroupedMatrix& w);

enum class MemoryRule : std::uint8_t {
  gradient,       // D = G
  normalized,     // D = G / ||G||_F
  orthogonal,     // D = U V^T of G: Muon without momentum
  sign_in_basis,  // D = sign of G in the basis of the embeddings, which no optimizer knows: TRA-SignGD
};
void describe_rule(OptionVisitor& v, MemoryRule& rule);  // the option "update": what is taken for Muon
// W -= eta D. Of `orthogonal` one SVD [M, M]: on the space of differences within groups U V^T is the sign of
// a_g, on that of the groups' means the factor Q of diag(a) + C b, so that b becomes (Q - diag(sign a)) / C.
GroupedMatrix direction(const MemoryTask& task, const GroupedMatrix& gradient, MemoryRule rule);

// Loss after each of `steps` steps from W = 0; ends early once it is below `until`.
std::vector<double> memory_run(const MemoryTask& task, MemoryRule rule, double eta, std::int64_t steps,
                               double until = 0);
// The same for gradient descent, column by column, in which all wrong answers stay alike: any number of
// groups.
std::vector<double> memory_gradient_run(const MemoryTask& task, double eta, std::int64_t steps);

}  // namespace spectrain::lab
