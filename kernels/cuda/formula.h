#pragma once

#include <span>

#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/words.h"
#include "kernels/formula_program.h"

// Formula programs (kernels/formula_program.h) on a GPU. A thread takes four neighbouring elements through
// all steps, then the next four. The program is a kernel's argument: it lies in constant memory, all threads
// of a warp read the same step, and no branch of the interpreter divides them.
//
// Registers are 16 bytes for each thread in shared memory, for what a step takes is not known when the kernel
// is compiled, and the real ones cannot be indexed (an array of them would go to local memory, through the
// same cache and its tags). What only the next step needs stays in real ones and costs nothing. Near the
// floor on an H100, by count: its memory brings a multiprocessor 15 bytes a cycle, so AdamW's 7 x 16 bytes
// for each thread are 240 cycles of a warp; its 11 steps of arithmetic move 19 registers through shared
// memory, at 4 cycles each, and with their decoding issue some 600 of the 960 instructions that there is time
// for. 1536 threads fit, with 16 bytes each on their way: half as much again as hides the latency of memory,
// so the interpreter may ask for one tensor at a time.
//
// Only for .cu files.

namespace spectrain {

// A kernel's argument.
struct DeviceFormula {
  FormulaStep steps[kMostFormulaSteps];
  float scalars[kMostFormulaScalars];
  struct {
    void* data;
    FormulaDType dtype;
  } tensors[kMostFormulaTensors];
  std::int64_t cols;
  int count;
  bool has_rows_or_columns;
  bool narrow;   // 32 bits number all elements: their division is the cheaper
  bool aligned;  // four elements, at a multiple of four from a row's (or the first's) begin, by one
                 // instruction
};
static_assert(sizeof(DeviceFormula) < 4096 - 64);

// rows_apart: pieces of four begin anew with each row, rather than with the first element.
DeviceFormula device_formula(const FormulaProgram& program, std::span<const double> numbers,
                             std::span<const Tensor> tensors, const FormulaExtent& extent, bool rows_apart);

using Four = Pack<float, 4>;

// Shared memory of a block.
inline std::size_t formula_shared(int registers, int threads) {
  return static_cast<std::size_t>(registers) * static_cast<std::size_t>(threads) * sizeof(Four);
}

// Where four elements lie.
struct FourPlaces {
  std::int64_t first, row, col;
  int valid;  // elements from here on that count; the others are neither read nor written
};
__device__ inline FourPlaces places_of(const DeviceFormula& f, std::int64_t first, int valid) {
  FourPlaces p{first, 0, 0, valid};
  if (!f.has_rows_or_columns) return p;
  p.row =
      f.narrow
          ? static_cast<std::int64_t>(static_cast<std::uint32_t>(first) / static_cast<std::uint32_t>(f.cols))
          : first / f.cols;
  p.col = first - p.row * f.cols;
  return p;
}

template <class T>
__device__ inline Four load_four(const T* x, bool whole, int valid) {
  Four out;
  if (whole) {
    const Pack<T, 4> in = load_some<4>(x);
    for (int k = 0; k < 4; ++k) out.v[k] = widen(in.v[k]);
  } else {
    for (int k = 0; k < 4; ++k) out.v[k] = k < valid ? widen(x[k]) : 0.0f;
  }
  return out;
}
template <class T>
__device__ inline void store_four(T* x, const Four& in, bool whole, int valid) {
  Pack<T, 4> out;
  for (int k = 0; k < 4; ++k) out.v[k] = narrow<T>(in.v[k]);
  if (whole) return store_some(x, out);
  for (int k = 0; k < 4; ++k)
    if (k < valid) x[k] = out.v[k];
}

// Of tensors with one number for each row or column; four elements may lie in several rows.
__device__ inline Four load_vector(const DeviceFormula& f, const float* x, bool rows, FourPlaces p) {
  Four out;
  for (int k = 0; k < 4; ++k) {
    out.v[k] = k < p.valid ? x[rows ? p.row : p.col] : 0.0f;
    if (++p.col == f.cols) {
      p.col = 0;
      ++p.row;
    }
  }
  return out;
}

__device__ inline Four load_tensor(const DeviceFormula& f, int tensor, Extent extent, const FourPlaces& p) {
  const void* data = f.tensors[tensor].data;
  const bool whole = f.aligned && p.valid == 4;
  if (extent == Extent::elements) {
    if (f.tensors[tensor].dtype == FormulaDType::f32)
      return load_four(static_cast<const float*>(data) + p.first, whole, p.valid);
    if (f.tensors[tensor].dtype == FormulaDType::bf16)
      return load_four(static_cast<const bf16*>(data) + p.first, whole, p.valid);
    return load_four(static_cast<const f16*>(data) + p.first, whole, p.valid);
  }
  const float* x = static_cast<const float*>(data);
  if (extent == Extent::one) {
    const float value = *x;
    return {{value, value, value, value}};
  }
  return load_vector(f, x, extent == Extent::rows, p);
}

__device__ inline void store_tensor(const DeviceFormula& f, int tensor, const Four& x, const FourPlaces& p) {
  void* data = f.tensors[tensor].data;
  const bool whole = f.aligned && p.valid == 4;
  if (f.tensors[tensor].dtype == FormulaDType::f32)
    store_four(static_cast<float*>(data) + p.first, x, whole, p.valid);
  else if (f.tensors[tensor].dtype == FormulaDType::bf16)
    store_four(static_cast<bf16*>(data) + p.first, x, whole, p.valid);
  else
    store_four(static_cast<f16*>(data) + p.first, x, whole, p.valid);
}

#define SPECTRAIN_FOUR(expression) \
  for (int k = 0; k < 4; ++k) {    \
    const float x = a.v[k];        \
    const float y = b.v[k];        \
    const float z = c.v[k];        \
    static_cast<void>(y);          \
    static_cast<void>(z);          \
    out.v[k] = expression;         \
  }                                \
  break

__device__ inline Four apply_four(FormulaOp op, const Four& a, const Four& b, const Four& c) {
  Four out = a;
  switch (op) {
    case FormulaOp::square_root:
      SPECTRAIN_FOUR(sqrtf(x));
    case FormulaOp::absolute:
      SPECTRAIN_FOUR(fabsf(x));
    case FormulaOp::sign:
      SPECTRAIN_FOUR(x > 0 ? 1.0f : x < 0 ? -1.0f : x);
    case FormulaOp::add:
      SPECTRAIN_FOUR(x + y);
    case FormulaOp::subtract:
      SPECTRAIN_FOUR(x - y);
    case FormulaOp::multiply:
      SPECTRAIN_FOUR(x * y);
    case FormulaOp::divide:
      SPECTRAIN_FOUR(x / y);
    case FormulaOp::least:
      SPECTRAIN_FOUR(fminf(x, y));
    case FormulaOp::greatest:
      SPECTRAIN_FOUR(fmaxf(x, y));
    case FormulaOp::above:
      SPECTRAIN_FOUR(x > y ? 1.0f : 0.0f);
    case FormulaOp::choose:
      SPECTRAIN_FOUR(x != 0 ? y : z);
    case FormulaOp::multiply_add:
      SPECTRAIN_FOUR(x * y + z);
    case FormulaOp::multiply_subtract:
      SPECTRAIN_FOUR(x * y - z);
    case FormulaOp::subtract_product:
      SPECTRAIN_FOUR(z - x * y);
    default:  // copy
      break;
  }
  return out;
}
#undef SPECTRAIN_FOUR

// All steps for the elements at p; returns what the last one made. Each thread uses its own registers alone,
// so there is nothing to wait for.
__device__ inline Four run_formula(const DeviceFormula& f, const FourPlaces& p) {
  Four* registers = static_cast<Four*>(dynamic_shared()) + threadIdx.x;
  Four last{};
  for (int i = 0; i < f.count; ++i) {
    const FormulaStep s = f.steps[i];
    const auto operand = [&](int k) -> Four {
      if (s.previous >> k & 1) return last;
      if (s.scalars >> k & 1) {
        const float value = f.scalars[s.in[k]];
        return {{value, value, value, value}};
      }
      return registers[static_cast<unsigned>(s.in[k]) * blockDim.x];
    };
    if (s.op == FormulaOp::load) {
      last = load_tensor(f, s.in[0], static_cast<Extent>(s.in[1]), p);
    } else {
      const Four a = operand(0);
      if (s.op == FormulaOp::store) {
        store_tensor(f, s.out, a, p);
        continue;
      }
      Four b{}, c{};
      if (s.op >= FormulaOp::add) b = operand(1);
      if (s.op >= FormulaOp::choose) c = operand(2);
      last = apply_four(s.op, a, b, c);
    }
    if (s.out != kNoRegister) registers[static_cast<unsigned>(s.out) * blockDim.x] = last;
  }
  return last;
}

}  // namespace spectrain
