#include "kernels/cpu/isa/formula.h"

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/formula_program.h"

namespace spectrain {
namespace {

// Sums are cut by these, whatever the number of threads: elements of one sum that are added before the
// partial sums are, and rows and columns of a piece of the sums over columns.
constexpr std::int64_t kSegment = 16384, kColumns = 2048;
constexpr std::int64_t kGrain = kElementGrain / 4;

// Which step makes what the store takes that stands at `store`; -1 if that is a scalar or lies in a tensor.
int maker_of(std::span<const FormulaStep> steps, std::size_t store) {
  if (steps[store].scalars & 1) return -1;
  for (std::size_t i = store; i-- > 0;)
    if (steps[i].op != FormulaOp::store && steps[i].out == steps[store].in[0])
      return steps[i].op == FormulaOp::load ? -1 : static_cast<int>(i);
  return -1;
}

// Whether a step from `first` on reads memory of t, by itself or through what a load before it left there.
bool read_from(std::span<const FormulaStep> steps, std::span<const Tensor> tensors, const Tensor& t,
               std::size_t first) {
  bool there[kMostFormulaScalars] = {};  // registers that stand for t's memory
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const FormulaStep& s = steps[i];
    if (s.op == FormulaOp::load) {
      there[s.out] = tensors[s.in[0]].data == t.data;
      if (there[s.out] && i >= first) return true;
      continue;
    }
    for (std::size_t k = 0; k < 3 && i >= first; ++k)
      if (!(s.scalars >> k & 1) && k < static_cast<std::size_t>(operands_of(s.op)) && there[s.in[k]])
        return true;
    if (s.op != FormulaOp::store) there[s.out] = false;
  }
  return false;
}

// A call, and the numbers it needs while it runs.
struct Prepared {
  Prepared(const Formula& f, Formula::Use use, std::span<const double> numbers,
           std::span<const Tensor> tensors, const FormulaExtent& e)
      : program(f.program(use)) {
    program->compute_scalars(numbers, tensors, scalars);
    find_direct_stores(tensors);
    call.registers = program->registers();
    call.result = program->result();
    call.scalars = scalars;
    call.cols = e.cols;
    call.has_rows_or_columns = program->has_rows_or_columns();
    for (std::size_t i = 0; i < tensors.size(); ++i)
      call.tensors[i] = {tensors[i].data,
                         tensors[i].dtype == DType::bf16 ? FormulaDType::bf16 : FormulaDType::f32};
  }
  Prepared(const Prepared&) = delete;
  Prepared& operator=(const Prepared&) = delete;

  // A value that goes into a float tensor is written there by the step that makes it, where nobody reads that
  // tensor afterwards: one pass over the block less.
  void find_direct_stores(std::span<const Tensor> tensors) {
    const std::span<const FormulaStep> all = program->steps();
    std::fill(std::begin(call.into), std::end(call.into), kNoTensor);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const int maker =
          all[i].op == FormulaOp::store && tensors[all[i].out].dtype == DType::f32 ? maker_of(all, i) : -1;
      if (maker >= 0 && call.into[maker] == kNoTensor &&
          !read_from(all, tensors, tensors[all[i].out], static_cast<std::size_t>(maker) + 1))
        call.into[maker] = all[i].out;
      else
        steps[call.count++] = all[i];
    }
    call.steps = steps;
  }

  std::shared_ptr<const FormulaProgram> program;
  FormulaStep steps[kMostFormulaSteps];
  float scalars[kMostFormulaScalars];
  FormulaCall call{};
};

std::int64_t pieces(std::int64_t n, std::int64_t each) { return (n + each - 1) / each; }

// So that small pieces of work share a thread.
std::int64_t grain_of(std::int64_t elements_each) {
  return std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, elements_each));
}

}  // namespace

void CpuBackend::evaluate(const Formula& f, std::span<const double> numbers,
                          std::span<const Tensor> tensors) {
  const FormulaExtent e = check_evaluate(f, numbers, tensors, false);
  if (e.rows * e.cols == 0) return;
  const Prepared p(f, Formula::Use::evaluate, numbers, tensors, e);
  const auto kernel = SPECTRAIN_ISA_SELECT(formula_table).evaluate;
  parallel_ranges(threads_, e.rows * e.cols, kGrain,
                  [&](std::int64_t begin, std::int64_t end) { kernel(p.call, begin, end); });
}

void CpuBackend::reduce(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
                        Extent result, const Tensor& out) {
  const FormulaExtent e = check_reduce(f, numbers, tensors, result, out, false);
  if (out.numel() == 0) return;
  if (e.rows * e.cols == 0) return fill(out, 0);
  const Prepared p(f, Formula::Use::reduce, numbers, tensors, e);
  const FormulaTable& table = SPECTRAIN_ISA_SELECT(formula_table);
  float* sums = out.as<float>();
  if (result == Extent::rows && e.cols <= kSegment) {
    parallel_ranges(threads_, e.rows, grain_of(e.cols), [&](std::int64_t first, std::int64_t last) {
      table.sum_rows(p.call, first, last, sums + first);
    });
  } else if (result != Extent::columns) {
    // Over all is over one long row.
    const std::int64_t rows = result == Extent::rows ? e.rows : 1, length = e.rows * e.cols / rows;
    const std::int64_t segments = pieces(length, kSegment);
    double* parts = reinterpret_cast<double*>(scratch(2 * rows * segments));
    parallel_ranges(threads_, rows * segments, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t begin = i / segments * length, from = i % segments * kSegment;
        parts[i] = table.sum(p.call, begin + from, begin + std::min(length, from + kSegment));
      }
    });
    for (std::int64_t r = 0; r < rows; ++r) {
      double total = 0;
      for (std::int64_t s = 0; s < segments; ++s) total += parts[r * segments + s];
      sums[r] = static_cast<float>(total);
    }
  } else {
    // Pieces of about a segment of elements each, no more than 64 above each other.
    const std::int64_t width = std::min(kColumns, e.cols), across = pieces(e.cols, width);
    const std::int64_t height = std::max(pieces(e.rows, 64), kSegment / width), down = pieces(e.rows, height);
    double* parts = reinterpret_cast<double*>(scratch(2 * down * e.cols));
    parallel_ranges(threads_, down * across, grain_of(height * width),
                    [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t i = first; i < last; ++i) {
                        const std::int64_t row = i / across * height, col = i % across * width;
                        table.sum_columns(p.call, row, std::min(e.rows, row + height), col,
                                          std::min(e.cols, col + width), parts + i / across * e.cols + col);
                      }
                    });
    for (std::int64_t c = 0; c < e.cols; ++c) {
      double total = 0;
      for (std::int64_t d = 0; d < down; ++d) total += parts[d * e.cols + c];
      sums[c] = static_cast<float>(total);
    }
  }
}

}  // namespace spectrain
