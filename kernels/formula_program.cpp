#include "kernels/formula_program.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace spectrain {
namespace {

using Op = Formula::Op;

double apply(Op op, double a, double b, double c) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::subtract:
      return a - b;
    case Op::multiply:
      return a * b;
    case Op::divide:
      return a / b;
    case Op::least:
      return std::fmin(a, b);
    case Op::greatest:
      return std::fmax(a, b);
    case Op::above:
      return a > b ? 1 : 0;
    case Op::square_root:
      return std::sqrt(a);
    case Op::absolute:
      return std::fabs(a);
    case Op::sign:
      return a > 0 ? 1 : a < 0 ? -1 : a;
    case Op::choose:
      return a != 0 ? b : c;
    case Op::tensor:
    case Op::number:
    case Op::constant:
      break;
  }
  throw std::logic_error("a formula with an unknown operation");
}

FormulaOp step_of(Op op) {
  switch (op) {
    case Op::add:
      return FormulaOp::add;
    case Op::subtract:
      return FormulaOp::subtract;
    case Op::multiply:
      return FormulaOp::multiply;
    case Op::divide:
      return FormulaOp::divide;
    case Op::least:
      return FormulaOp::least;
    case Op::greatest:
      return FormulaOp::greatest;
    case Op::above:
      return FormulaOp::above;
    case Op::square_root:
      return FormulaOp::square_root;
    case Op::absolute:
      return FormulaOp::absolute;
    case Op::sign:
      return FormulaOp::sign;
    case Op::choose:
      return FormulaOp::choose;
    case Op::tensor:
      return FormulaOp::load;
    case Op::number:
    case Op::constant:
      break;
  }
  return FormulaOp::copy;
}

int operands_of(Op op) {
  switch (op) {
    case Op::tensor:
    case Op::number:
    case Op::constant:
      return 0;
    case Op::square_root:
    case Op::absolute:
    case Op::sign:
      return 1;
    case Op::choose:
      return 3;
    default:
      return 2;
  }
}

bool on_device(Formula::Use use) {
  return use == Formula::Use::evaluate_on_device || use == Formula::Use::reduce_on_device;
}
bool reduces(Formula::Use use) {
  return use == Formula::Use::reduce || use == Formula::Use::reduce_on_device;
}

}  // namespace

// From the nodes of a formula to the steps of a program.
class FormulaCompiler {
 public:
  FormulaCompiler(const Formula& formula, Formula::Use use, FormulaProgram& program)
      : device_(on_device(use)), program_(program) {
    find_roots(formula, reduces(use));
    merge(formula);
    for (Root& r : roots_) r.value = merged_[index(r.value)];
    for (const Root& r : roots_) mark(r.value);
    number_scalars();
    fuse();
    for (std::size_t i = 0; i < values_.size(); ++i) count_registers(static_cast<int>(i));
    for (const Root& r : roots_) place(r.value, reduces(use));
    finish(reduces(use));
    allocate();
  }

 private:
  struct Value {
    Formula::Node node;
    FormulaOp op = FormulaOp::copy;
    std::array<int, 3> in = {-1, -1, -1};
    bool live = false, fused_away = false, placed = false;
    int scalar = -1;
    int uses = 0;
    int registers = 0;  // how many it takes to compute it
  };
  struct Root {
    int tensor, value;  // tensor -1: what is summed
  };
  // A step before registers are known: which values it makes and takes.
  struct Draft {
    FormulaOp op;
    int made;               // value; -1: a store
    std::array<int, 3> in;  // values
    int tensor;
  };

  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  void find_roots(const Formula& f, bool reduce) {
    if (reduce) {
      if (f.result() < 0) throw std::logic_error("reduce: the formula does not say what to sum (sum_of)");
      roots_.push_back({-1, f.result()});
      return;
    }
    if (f.assignments().empty()) throw std::logic_error("evaluate: the formula assigns nothing");
    for (const Formula::Assignment& a : f.assignments()) {
      if (a.tensor < 0 || a.tensor >= Formula::kMostTensors)
        throw std::logic_error("evaluate: the formula assigns to a tensor it cannot have");
      for (const Root& r : roots_)
        if (r.tensor == a.tensor) throw std::logic_error("evaluate: the formula assigns to a tensor twice");
      roots_.push_back({a.tensor, a.node});
    }
  }

  // Equal operations on equal operands become one value.
  void merge(const Formula& f) {
    for (const Formula::Node& given : f.nodes()) {
      Value v;
      v.node = given;
      v.op = step_of(given.op);
      v.in = {at(given.a), at(given.b), at(given.c)};
      for (int k = 0; k < 3; ++k) {
        if (k >= operands_of(given.op))
          v.in[index(k)] = -1;
        else if (v.in[index(k)] < 0)
          throw std::logic_error("a formula with an operation that lacks an operand");
      }
      const bool either_way = given.op == Op::add || given.op == Op::multiply || given.op == Op::least ||
                              given.op == Op::greatest;
      if (either_way && v.in[0] > v.in[1]) std::swap(v.in[0], v.in[1]);
      int same = -1;
      for (std::size_t i = 0; i < values_.size() && same < 0; ++i)
        if (equal(values_[i], v)) same = static_cast<int>(i);
      if (same < 0) {
        same = static_cast<int>(values_.size());
        values_.push_back(v);
      }
      merged_.push_back(same);
    }
  }
  int at(std::int32_t node) const { return node < 0 ? -1 : merged_[index(node)]; }
  static bool equal(const Value& a, const Value& b) {
    if (a.node.op != b.node.op || a.in != b.in) return false;
    if (a.node.op == Op::tensor) return a.node.index == b.node.index && a.node.extent == b.node.extent;
    if (a.node.op == Op::number) return a.node.index == b.node.index;
    return a.node.op != Op::constant ||
           std::bit_cast<std::uint64_t>(a.node.value) == std::bit_cast<std::uint64_t>(b.node.value);
  }

  void mark(int value) {
    Value& v = values_[index(value)];
    ++v.uses;
    if (v.live) return;
    v.live = true;
    for (const int k : v.in)
      if (k >= 0) mark(k);
  }

  void number_scalars() {
    for (Value& v : values_) {
      if (!v.live) continue;
      const Op op = v.node.op;
      bool scalar = op == Op::number || op == Op::constant;
      if (op == Op::tensor) {
        scalar = !device_ && v.node.extent == Extent::one;
        if (v.node.extent == Extent::rows || v.node.extent == Extent::columns)
          program_.has_rows_or_columns_ = true;
      } else if (!scalar) {
        scalar = std::all_of(v.in.begin(), v.in.end(),
                             [&](int k) { return k < 0 || values_[index(k)].scalar >= 0; });
      }
      if (!scalar) continue;
      v.scalar = program_.scalars();
      const auto slot = [&](int k) { return k < 0 ? -1 : values_[index(k)].scalar; };
      program_.scalars_.push_back(
          {op, v.node.index, {slot(v.in[0]), slot(v.in[1]), slot(v.in[2])}, v.node.value});
    }
  }

  // A product that one sum alone takes is computed with it.
  void fuse() {
    for (Value& v : values_) {
      if (!v.live || v.scalar >= 0 || (v.op != FormulaOp::add && v.op != FormulaOp::subtract)) continue;
      for (const std::size_t side : {std::size_t{1}, std::size_t{0}}) {
        Value& product = values_[index(v.in[side])];
        if (product.op != FormulaOp::multiply || product.scalar >= 0 || product.uses != 1) continue;
        const int other = v.in[1 - side];
        v.op = v.op == FormulaOp::add ? FormulaOp::multiply_add
               : side == 0            ? FormulaOp::multiply_subtract
                                      : FormulaOp::subtract_product;
        v.in = {product.in[0], product.in[1], other};
        product.fused_away = true;
        break;
      }
    }
  }

  // Sethi and Ullman's numbers (1970), exact for trees: the operand that needs most is computed first.
  void count_registers(int value) {
    Value& v = values_[index(value)];
    if (v.scalar >= 0) return;
    std::array<int, 3> need{};
    for (std::size_t k = 0; k < 3; ++k) need[k] = v.in[k] < 0 ? 0 : values_[index(v.in[k])].registers;
    std::sort(need.begin(), need.end(), std::greater<>());
    v.registers = std::max({1, need[0], need[1] + 1 - (need[1] == 0), need[2] + 2 - 2 * (need[2] == 0)});
  }

  void place(int value, bool sum) {
    Value& v = values_[index(value)];
    if (v.placed) return;
    if (v.scalar >= 0) {
      if (sum) drafts_.push_back({FormulaOp::copy, value, {value, -1, -1}, -1});
      return;
    }
    v.placed = true;
    std::array<int, 3> order = v.in;
    const auto need = [&](int k) { return k < 0 ? 0 : values_[index(k)].registers; };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return need(a) > need(b); });
    for (const int k : order)
      if (k >= 0 && values_[index(k)].scalar < 0) place(k, false);
    drafts_.push_back({v.op, value, v.in, v.node.index});
  }

  // The stores, what was computed last first: it is at hand. Or, for a sum, its value as the last step.
  void finish(bool reduce) {
    if (reduce) return;
    for (auto r = roots_.rbegin(); r != roots_.rend(); ++r)
      drafts_.push_back({FormulaOp::store, -1, {r->value, -1, -1}, r->tensor});
  }

  // Whether only the next step takes what step `i` made.
  bool passes_on(std::size_t i, const std::vector<int>& last) const {
    const int made = drafts_[i].made;
    if (!device_ || made < 0) return false;
    if (last[index(made)] < 0) return true;  // the sum
    return last[index(made)] == static_cast<int>(i) + 1;
  }

  void allocate() {
    std::vector<int> last(values_.size(), -1), place_of(values_.size(), -1);
    for (std::size_t i = 0; i < drafts_.size(); ++i)
      for (const int k : drafts_[i].in)
        if (k >= 0 && values_[index(k)].scalar < 0) last[index(k)] = static_cast<int>(i);
    std::vector<bool> taken;
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      const Draft& d = drafts_[i];
      FormulaStep step;
      step.op = d.op;
      for (std::size_t k = 0; k < 3; ++k) operand(step, k, d.in[k], i, place_of);
      for (const int k : d.in)
        if (k >= 0 && last[index(k)] == static_cast<int>(i) && place_of[index(k)] >= 0)
          taken[index(place_of[index(k)])] = false;
      if (d.op == FormulaOp::store) {
        step.out = static_cast<std::uint8_t>(d.tensor);
      } else if (passes_on(i, last)) {
        step.out = kNoRegister;
      } else {
        const auto free = std::find(taken.begin(), taken.end(), false) - taken.begin();
        if (static_cast<std::size_t>(free) == taken.size()) taken.push_back(false);
        taken[static_cast<std::size_t>(free)] = true;
        place_of[index(d.made)] = static_cast<int>(free);
        step.out = static_cast<std::uint8_t>(free);
      }
      if (d.op == FormulaOp::load) describe_load(step, d);
      program_.steps_.push_back(step);
    }
    program_.registers_ = static_cast<int>(taken.size());
    program_.result_ = roots_[0].tensor < 0 ? program_.steps_.back().out : -1;
  }
  void operand(FormulaStep& step, std::size_t k, int value, std::size_t i,
               const std::vector<int>& place_of) const {
    if (value < 0) return;
    const auto bit = static_cast<std::uint8_t>(1u << k);
    const Value& v = values_[index(value)];
    if (v.scalar >= 0) {
      step.in[k] = static_cast<std::uint8_t>(v.scalar);
      step.scalars = static_cast<std::uint8_t>(step.scalars | bit);
    } else {
      const int place = place_of[index(value)];
      step.in[k] = place < 0 ? kNoRegister : static_cast<std::uint8_t>(place);
      if (device_ && i > 0 && drafts_[i - 1].made == value)
        step.previous = static_cast<std::uint8_t>(step.previous | bit);
    }
  }
  void describe_load(FormulaStep& step, const Draft& d) const {
    step.in[0] = static_cast<std::uint8_t>(d.tensor);
    step.in[1] = static_cast<std::uint8_t>(values_[index(d.made)].node.extent);
    for (const Root& r : roots_)
      if (r.value == d.made && roots_.size() > 1) step.lasting = 1;
  }

  bool device_;
  FormulaProgram& program_;
  std::vector<Root> roots_;
  std::vector<Value> values_;
  std::vector<int> merged_;  // of each node: its value
  std::vector<Draft> drafts_;
};

FormulaProgram::FormulaProgram(const Formula& formula, Formula::Use use)
    : nodes_(formula.nodes().size()), assignments_(formula.assignments().size()), summed_(formula.result()) {
  FormulaCompiler(formula, use, *this);
}

bool FormulaProgram::current(const Formula& formula) const {
  return nodes_ == formula.nodes().size() && assignments_ == formula.assignments().size() &&
         summed_ == formula.result();
}

void FormulaProgram::compute_scalars(std::span<const double> numbers, std::span<const Tensor> tensors,
                                     float* out) const {
  std::array<double, kMostFormulaScalars> values;
  for (std::size_t i = 0; i < scalars_.size(); ++i) {
    const Scalar& s = scalars_[i];
    const auto in = [&](int k) { return s.in[k] < 0 ? 0 : values[static_cast<std::size_t>(s.in[k])]; };
    if (s.op == Op::number)
      values[i] = numbers[static_cast<std::size_t>(s.index)];
    else if (s.op == Op::constant)
      values[i] = s.value;
    else if (s.op == Op::tensor)
      values[i] = static_cast<double>(*tensors[static_cast<std::size_t>(s.index)].as<float>());
    else
      values[i] = apply(s.op, in(0), in(1), in(2));
    out[i] = static_cast<float>(values[i]);
  }
}

std::shared_ptr<const FormulaProgram> Formula::program(Use use) const {
  const std::scoped_lock lock(mutex_);
  std::shared_ptr<const FormulaProgram>& made = programs_[static_cast<std::size_t>(use)];
  if (!made || !made->current(*this)) made = std::make_shared<const FormulaProgram>(*this, use);
  return made;
}

}  // namespace spectrain
