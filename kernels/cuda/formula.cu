#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/formula.h"
#include "kernels/cuda/launch.h"

namespace spectrain {
namespace {

// Floor: the bytes of what is read and written.
__global__ void evaluate_kernel(const __grid_constant__ DeviceFormula f, std::int64_t n) {
  const std::int64_t stride = 4 * static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = 4 * (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x); i < n;
       i += stride)
    run_formula(f, places_of(f, i, n - i < 4 ? static_cast<int>(n - i) : 4));
}

FormulaDType formula_dtype(DType dtype) {
  return dtype == DType::f32    ? FormulaDType::f32
         : dtype == DType::bf16 ? FormulaDType::bf16
                                : FormulaDType::f16;
}

}  // namespace

DeviceFormula device_formula(const FormulaProgram& program, std::span<const double> numbers,
                             std::span<const Tensor> tensors, const FormulaExtent& extent, bool rows_apart) {
  DeviceFormula f{};
  f.count = static_cast<int>(program.steps().size());
  std::copy(program.steps().begin(), program.steps().end(), f.steps);
  program.compute_scalars(numbers, tensors, f.scalars);
  f.cols = extent.cols;
  f.has_rows_or_columns = program.has_rows_or_columns();
  f.narrow = extent.rows * extent.cols < (std::int64_t{1} << 32);
  f.aligned = !rows_apart || extent.cols % 4 == 0;
  for (const FormulaStep& s : program.steps()) {
    const bool store = s.op == FormulaOp::store;
    if (!store && s.op != FormulaOp::load) continue;
    const std::size_t i = store ? s.out : s.in[0];
    f.tensors[i] = {tensors[i].data, formula_dtype(tensors[i].dtype)};
    if ((store || static_cast<Extent>(s.in[1]) == Extent::elements) &&
        reinterpret_cast<std::uintptr_t>(tensors[i].data) % (4 * size_of(tensors[i].dtype)) != 0)
      f.aligned = false;
  }
  return f;
}

void CudaBackend::evaluate(const Formula& formula, std::span<const double> numbers,
                           std::span<const Tensor> tensors) {
  const FormulaExtent e = check_evaluate(formula, numbers, tensors, true);
  const std::int64_t n = e.rows * e.cols;
  if (n == 0) return;
  const auto program = formula.program(Formula::Use::evaluate_on_device);
  const DeviceFormula f = device_formula(*program, numbers, tensors, e, false);
  // Formulas of very many registers get smaller blocks. As many blocks as fit beside each other.
  int threads = 256;
  while (formula_shared(program->registers(), threads) > shared_memory_limit() && threads > kWarp)
    threads /= 2;
  const std::int64_t work = (n + 4 * threads - 1) / (4 * threads);
  launch(stream(),
         {blocks_for(work, 2048 / threads), static_cast<unsigned>(threads),
          formula_shared(program->registers(), threads)},
         evaluate_kernel, f, n);
}

}  // namespace spectrain
