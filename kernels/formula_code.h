#pragma once

#include <cstdint>

// The instructions a formula becomes (formula_program.h), as the processor and a GPU interpret them. Plain
// data: it is read by code compiled per instruction set (cpu/isa/isa.h) and travels to a GPU as a kernel's
// argument.

namespace spectrain {

// Those with one operand, with two, with three.
enum class FormulaOp : std::uint8_t {
  load,   // out = the tensor in[0], which lies as Extent in[1] says
  store,  // tensor out = in[0]
  copy,   // out = in[0], a scalar
  square_root,
  absolute,
  sign,
  add,
  subtract,
  multiply,
  divide,
  least,
  greatest,
  above,
  choose,
  multiply_add,       // in[0] in[1] + in[2]
  multiply_subtract,  // in[0] in[1] - in[2]
  subtract_product,   // in[2] - in[0] in[1]
};

inline constexpr int operands_of(FormulaOp op) {
  return op == FormulaOp::load ? 0 : op < FormulaOp::add ? 1 : op < FormulaOp::choose ? 2 : 3;
}

struct FormulaStep {
  FormulaOp op = FormulaOp::load;
  std::uint8_t out = 0;            // a register; kNoRegister: only the next step takes it
  std::uint8_t in[3] = {0, 0, 0};  // registers or scalars
  std::uint8_t scalars = 0;        // bit k: in[k] is a scalar
  std::uint8_t previous = 0;       // bit k: in[k] is what the step before this one made
  std::uint8_t lasting = 0;  // of a load: the value is still needed when the tensor may have been written
};
static_assert(sizeof(FormulaStep) == 8);

// Registers that only programs for a device leave out: there the step before is at hand.
inline constexpr std::uint8_t kNoRegister = 255;
// As many as a formula may have nodes, and stores behind them.
inline constexpr int kMostFormulaSteps = 104, kMostFormulaScalars = 96, kMostFormulaTensors = 8;

enum class FormulaDType : std::uint8_t { f32, bf16, f16 };

}  // namespace spectrain
