#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <vector>

// A computation on the elements of tensors, written once as a formula that every backend carries out
// (Backend::evaluate, Backend::reduce). Optimizers are written with it: a rule is new text, not new kernels.
//
//   Formula f;                                             // Lion (Chen et al. 2023)
//   const Term w = f.tensor(0), g = f.tensor(1), m = f.tensor(2);
//   const Term lr = f.number(0), decay = f.number(1), b1 = f.number(2), b2 = f.number(3);
//   f.assign(2, b2 * m + (1 - b2) * g);
//   f.assign(0, w - lr * (decay * w + sign(b1 * m + (1 - b1) * g)));
//
//   backend.evaluate(f, {lr, decay, 0.9, 0.99}, {weight, gradient, momentum});
//
// Every element reads before it writes, so a tensor may be input and output, and the order of assignments
// does not matter.
//
// What consists of numbers and constants alone, such as 1 - b2, is computed once for each call, in double,
// and then rounded to the backend's arithmetic: 1 - 0.999 loses nothing. Products and sums may be fused (one
// rounding for a b + c). min and max are std::fmin and std::fmax: of a number and a NaN, the number.

namespace spectrain {

class FormulaProgram;  // formula_program.h

// Of its own, so that min, sqrt and the like are found for terms alone.
namespace formulas {

// How a tensor lies under the matrix [R,C] that a formula runs over.
enum class Extent : std::uint8_t {
  elements,  // [R,C]: its own number for each element
  rows,      // [R]: one for each row
  columns,   // [C]: one for each column
  one,       // [1]: one for all
};

class Formula;

// A value in a formula.
class Term {
 public:
  Term(Formula* formula, std::int32_t node) : formula_(formula), node_(node) {}
  Formula& formula() const { return *formula_; }
  std::int32_t node() const { return node_; }

 private:
  Formula* formula_;
  std::int32_t node_;
};

class Formula {
 public:
  enum class Op : std::uint8_t {
    tensor,    // the value of tensors[index]
    number,    // numbers[index]
    constant,  // value
    add,       // a + b
    subtract,
    multiply,
    divide,
    least,        // min(a, b)
    greatest,     // max(a, b)
    above,        // a > b ? 1 : 0
    square_root,  // of a
    absolute,
    sign,    // -1, 0 or 1; of NaN: NaN
    choose,  // a != 0 ? b : c
  };
  struct Node {
    Op op;
    Extent extent = Extent::elements;     // of a tensor
    std::int32_t index = 0;               // of a tensor or number
    std::int32_t a = -1, b = -1, c = -1;  // operands: nodes before this one
    double value = 0;                     // of a constant
  };
  struct Assignment {
    std::int32_t tensor, node;
  };

  // Most of each, so that a device can hold a formula in its fastest memory.
  static constexpr std::int32_t kMostTensors = 8, kMostNumbers = 24, kMostNodes = 96;

  Formula() = default;
  // Terms point at their formula.
  Formula(const Formula&) = delete;
  Formula& operator=(const Formula&) = delete;

  Term tensor(std::int32_t index, Extent extent = Extent::elements) {
    return add({Op::tensor, extent, index});
  }
  Term number(std::int32_t index) { return add({Op::number, Extent::one, index}); }
  Term constant(double value) { return add({Op::constant, Extent::one, 0, -1, -1, -1, value}); }
  Term operation(Op op, const Term& a) { return add({op, Extent::elements, 0, checked(a)}); }
  Term operation(Op op, const Term& a, const Term& b) {
    return add({op, Extent::elements, 0, checked(a), checked(b)});
  }
  Term operation(Op op, const Term& a, const Term& b, const Term& c) {
    return add({op, Extent::elements, 0, checked(a), checked(b), checked(c)});
  }

  // tensors[index] = value; that tensor has Extent::elements.
  void assign(std::int32_t index, const Term& value) { assignments_.push_back({index, checked(value)}); }
  // What Backend::reduce adds up.
  void sum_of(const Term& value) { result_ = checked(value); }

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Assignment>& assignments() const { return assignments_; }
  std::int32_t result() const { return result_; }  // -1: none
  // What a call is for, and where: a processor reads tensors with Extent::one before it starts, a device
  // while it runs.
  enum class Use : std::uint8_t { evaluate, reduce, evaluate_on_device, reduce_on_device };
  // The formula as a backend carries it out: made when it is first asked for, and again after a change. May
  // be called by several threads. Throws std::logic_error for a formula that says nothing
  // (formula_program.h).
  std::shared_ptr<const FormulaProgram> program(Use use) const;

  std::int32_t tensors() const { return count(Op::tensor); }
  std::int32_t numbers() const { return count(Op::number); }

 private:
  Term add(const Node& node) {
    if (nodes_.size() >= static_cast<std::size_t>(kMostNodes))
      throw std::logic_error("a formula of too many operations");
    if ((node.op == Op::tensor && node.index >= kMostTensors) ||
        (node.op == Op::number && node.index >= kMostNumbers))
      throw std::logic_error("a formula of too many tensors or numbers");
    nodes_.push_back(node);
    return {this, static_cast<std::int32_t>(nodes_.size()) - 1};
  }
  std::int32_t checked(const Term& t) const {
    if (&t.formula() != this) throw std::logic_error("a term of another formula");
    return t.node();
  }
  std::int32_t count(Op op) const {
    std::int32_t most = 0;
    for (const Node& n : nodes_)
      if (n.op == op && n.index + 1 > most) most = n.index + 1;
    if (op == Op::tensor)
      for (const Assignment& a : assignments_)
        if (a.tensor + 1 > most) most = a.tensor + 1;
    return most;
  }

  std::vector<Node> nodes_;
  std::vector<Assignment> assignments_;
  std::int32_t result_ = -1;
  mutable std::mutex mutex_;
  mutable std::array<std::shared_ptr<const FormulaProgram>, 4> programs_;
};

inline Term operator+(const Term& a, const Term& b) { return a.formula().operation(Formula::Op::add, a, b); }
inline Term operator-(const Term& a, const Term& b) {
  return a.formula().operation(Formula::Op::subtract, a, b);
}
inline Term operator*(const Term& a, const Term& b) {
  return a.formula().operation(Formula::Op::multiply, a, b);
}
inline Term operator/(const Term& a, const Term& b) {
  return a.formula().operation(Formula::Op::divide, a, b);
}
inline Term operator+(const Term& a, double b) { return a + a.formula().constant(b); }
inline Term operator+(double a, const Term& b) { return b.formula().constant(a) + b; }
inline Term operator-(const Term& a, double b) { return a - a.formula().constant(b); }
inline Term operator-(double a, const Term& b) { return b.formula().constant(a) - b; }
inline Term operator*(const Term& a, double b) { return a * a.formula().constant(b); }
inline Term operator*(double a, const Term& b) { return b.formula().constant(a) * b; }
inline Term operator/(const Term& a, double b) { return a / a.formula().constant(b); }
inline Term operator/(double a, const Term& b) { return b.formula().constant(a) / b; }
inline Term min(const Term& a, const Term& b) { return a.formula().operation(Formula::Op::least, a, b); }
inline Term max(const Term& a, const Term& b) { return a.formula().operation(Formula::Op::greatest, a, b); }
inline Term min(const Term& a, double b) { return min(a, a.formula().constant(b)); }
inline Term max(const Term& a, double b) { return max(a, a.formula().constant(b)); }
inline Term above(const Term& a, const Term& b) { return a.formula().operation(Formula::Op::above, a, b); }
inline Term above(const Term& a, double b) { return above(a, a.formula().constant(b)); }
inline Term sqrt(const Term& a) { return a.formula().operation(Formula::Op::square_root, a); }
inline Term abs(const Term& a) { return a.formula().operation(Formula::Op::absolute, a); }
inline Term sign(const Term& a) { return a.formula().operation(Formula::Op::sign, a); }
inline Term square(const Term& a) { return a * a; }
inline Term choose(const Term& condition, const Term& then, const Term& otherwise) {
  return condition.formula().operation(Formula::Op::choose, condition, then, otherwise);
}

}  // namespace formulas

using formulas::Extent;
using formulas::Formula;
using formulas::Term;

}  // namespace spectrain
