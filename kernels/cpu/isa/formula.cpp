#include "kernels/cpu/isa/formula.h"

#include <cmath>

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using i64 = std::int64_t;
using u16 = std::uint16_t;
constexpr int kLanes = 16;
// Elements in a block. Where tensors come from memory blocks are small: the processor then has several steps
// in its window at once and waits for memory in one while it computes in others (AdamW: 1.4 times its own
// kernel's time, 1.9 with large blocks). In caches steps should be long (blocks of 128 take a quarter more
// time).
constexpr int kMostBlock = 512, kFarBlock = 128;
constexpr std::int64_t kFar = 1 << 20;  // elements of a range that is taken to come from memory
constexpr int kRoom = 6144;  // floats for all registers: half of a small first cache, tensors take the rest

inline i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// What a thread computes with. value[r]: where the value of register r stands, in the room of that register
// or, of a tensor that needs no conversion, where it lies.
struct Work {
  explicit Work(const FormulaCall& call, i64 most = kMostBlock) {
    const i64 fits = call.registers > 0 ? kRoom / call.registers / 64 * 64 : kMostBlock;
    block = smaller(most, fits);
  }
  float* room_of(int r) { return room + r * (block + kLanes); }

  i64 block;
  const float* value[kMostFormulaScalars];
  // kLanes more for each register: expand_rows() writes beyond the end.
  alignas(64) float room[kRoom + kMostFormulaScalars * kLanes];
};

struct Operand {
  const float* vector;
  float scalar;
};
template <bool scalar>
inline float at(const Operand& x, i64 i) {
  if constexpr (scalar)
    return x.scalar;
  else
    return x.vector[i];
}

// out may be an operand: every element is read before it is written, which `omp simd` tells the compiler.
template <bool sa, bool sb, bool sc, class F>
inline void loop(F f, float* out, const Operand* in, i64 n) {
  const Operand a = in[0], b = in[1], c = in[2];
#pragma omp simd
  for (i64 i = 0; i < n; ++i) out[i] = f(at<sa>(a, i), at<sb>(b, i), at<sc>(c, i));
}
// Steps of which all operands are scalars do not occur: they are scalars themselves.
template <class F>
void ternary(F f, int scalars, float* out, const Operand* in, i64 n) {
  switch (scalars) {
    case 0:
      return loop<false, false, false>(f, out, in, n);
    case 1:
      return loop<true, false, false>(f, out, in, n);
    case 2:
      return loop<false, true, false>(f, out, in, n);
    case 3:
      return loop<true, true, false>(f, out, in, n);
    case 4:
      return loop<false, false, true>(f, out, in, n);
    case 5:
      return loop<true, false, true>(f, out, in, n);
    default:
      return loop<false, true, true>(f, out, in, n);
  }
}
template <class F>
void binary(F f, int scalars, float* out, const Operand* in, i64 n) {
  switch (scalars) {
    case 0:
      return loop<false, false, true>(f, out, in, n);
    case 1:
      return loop<true, false, true>(f, out, in, n);
    default:
      return loop<false, true, true>(f, out, in, n);
  }
}
template <class F>
void unary(F f, float* out, const Operand* in, i64 n) {
  loop<false, true, true>(f, out, in, n);
}

void arithmetic(FormulaOp op, int scalars, float* out, const Operand* in, i64 n) {
  switch (op) {
    case FormulaOp::add:
      return binary([](float a, float b, float) { return a + b; }, scalars, out, in, n);
    case FormulaOp::subtract:
      return binary([](float a, float b, float) { return a - b; }, scalars, out, in, n);
    case FormulaOp::multiply:
      return binary([](float a, float b, float) { return a * b; }, scalars, out, in, n);
    case FormulaOp::divide:
      return binary([](float a, float b, float) { return a / b; }, scalars, out, in, n);
    case FormulaOp::least:  // of a number and a NaN the number, as std::fmin
      return binary([](float a, float b, float) { return a < b || b != b ? a : b; }, scalars, out, in, n);
    case FormulaOp::greatest:
      return binary([](float a, float b, float) { return a > b || b != b ? a : b; }, scalars, out, in, n);
    case FormulaOp::above:
      return binary([](float a, float b, float) { return a > b ? 1.0f : 0.0f; }, scalars, out, in, n);
    case FormulaOp::square_root:
      return unary([](float a, float, float) { return std::sqrt(a); }, out, in, n);
    case FormulaOp::absolute:
      return unary([](float a, float, float) { return std::fabs(a); }, out, in, n);
    case FormulaOp::sign:
      return unary([](float a, float, float) { return a > 0 ? 1.0f : a < 0 ? -1.0f : a; }, out, in, n);
    case FormulaOp::choose:
      return ternary([](float a, float b, float c) { return a != 0 ? b : c; }, scalars, out, in, n);
    case FormulaOp::multiply_add:
      return ternary([](float a, float b, float c) { return a * b + c; }, scalars, out, in, n);
    case FormulaOp::multiply_subtract:
      return ternary([](float a, float b, float c) { return a * b - c; }, scalars, out, in, n);
    case FormulaOp::subtract_product:
      return ternary([](float a, float b, float c) { return c - a * b; }, scalars, out, in, n);
    case FormulaOp::copy:
      for (i64 i = 0; i < n; ++i) out[i] = in[0].scalar;
      return;
    case FormulaOp::load:
    case FormulaOp::store:
      return;
  }
}

// out[k] = x[row of element i + k]. Whole vectors are written, beyond a short row's end too: what lies there
// is written next, or is the register's spare room.
void expand_rows(const float* x, i64 cols, i64 i, i64 n, float* out) {
  i64 row = i / cols, end = (row + 1) * cols - i;  // of the row, counted from i
  for (i64 k = 0; k < n; ++row, k = end, end += cols) {
    const float value = x[row];
    for (i64 j = k; j < smaller(end, n); j += kLanes)
      for (int l = 0; l < kLanes; ++l) out[j + l] = value;
  }
}

// out[k] = x[column of element i + k]: one period, then what is there is doubled.
void expand_columns(const float* x, i64 cols, i64 i, i64 n, float* out) {
  const i64 first = i % cols, head = smaller(cols - first, n), period = smaller(cols, n);
  std::memcpy(out, x + first, static_cast<std::size_t>(head) * sizeof(float));
  std::memcpy(out + head, x, static_cast<std::size_t>(period - head) * sizeof(float));
  for (i64 have = period; have < n; have *= 2)
    std::memcpy(out + have, out, static_cast<std::size_t>(smaller(have, n - have)) * sizeof(float));
}

void load(Work& w, const FormulaCall& call, const FormulaStep& s, i64 i, i64 n) {
  enum { kElements, kRows, kColumns };  // Extent
  const FormulaTensor& t = call.tensors[s.in[0]];
  float* out = w.room_of(s.out);
  const float* x = static_cast<const float*>(t.data);
  w.value[s.out] = out;
  if (s.in[1] == kRows) return expand_rows(x, call.cols, i, n, out);
  if (s.in[1] == kColumns) {
    if (s.lasting || i % call.cols + n > call.cols) return expand_columns(x, call.cols, i, n, out);
    w.value[s.out] = x + i % call.cols;
    return;
  }
  if (t.dtype == FormulaDType::bf16) {
    const u16* half = static_cast<const u16*>(t.data) + i;
#pragma omp simd
    for (i64 k = 0; k < n; ++k) out[k] = SPECTRAIN_ISA::load(half + k);
  } else if (s.lasting) {
    std::memcpy(out, x + i, static_cast<std::size_t>(n) * sizeof(float));
  } else {
    w.value[s.out] = x + i;
  }
}

template <class T>
void store_all(T* to, const Operand& from, bool scalar, i64 n) {
  if (scalar) {
    for (i64 k = 0; k < n; ++k) SPECTRAIN_ISA::store(to + k, from.scalar);
  } else {
    // A register, or the tensor itself.
    const float* x = from.vector;
#pragma omp simd
    for (i64 k = 0; k < n; ++k) SPECTRAIN_ISA::store(to + k, x[k]);
  }
}

// All steps for elements [i, i + n), n at most w.block.
// Inputs and outputs of a step are read and written element by element, so nothing is lost where they are the
// same memory.
void run(Work& w, const FormulaCall& call, i64 i, i64 n) {
  for (int k = 0; k < call.count; ++k) {
    const FormulaStep& s = call.steps[k];
    if (s.op == FormulaOp::load) {
      load(w, call, s, i, n);
      continue;
    }
    Operand in[3] = {};
    for (int j = 0; j < 3; ++j)
      if (s.scalars >> j & 1)
        in[j].scalar = call.scalars[s.in[j]];
      else
        in[j].vector = w.value[s.in[j]];
    if (s.op == FormulaOp::store) {
      const FormulaTensor& t = call.tensors[s.out];
      if (t.dtype == FormulaDType::bf16)
        store_all(static_cast<u16*>(t.data) + i, in[0], s.scalars & 1, n);
      else
        store_all(static_cast<float*>(t.data) + i, in[0], s.scalars & 1, n);
      continue;
    }
    float* out = call.into[k] == kNoTensor ? w.room_of(s.out)
                                           : static_cast<float*>(call.tensors[call.into[k]].data) + i;
    arithmetic(s.op, s.scalars, out, in, n);
    w.value[s.out] = out;
  }
}

// Where the block that begins at i should end: with the row, where rows are long, for then a column's value
// is read where it lies and a row's fills the whole register.
i64 piece(const Work& w, const FormulaCall& call, i64 i, i64 end) {
  i64 n = smaller(w.block, end - i);
  if (call.has_rows_or_columns && call.cols >= w.block) n = smaller(n, call.cols - i % call.cols);
  return n;
}

void evaluate(const FormulaCall& call, i64 begin, i64 end) {
  Work w(call, end - begin < kFar ? kMostBlock : kFarBlock);
  for (i64 i = begin, n; i < end; i += n) {
    n = piece(w, call, i, end);
    run(w, call, i, n);
  }
}

template <int count>
struct Lanes {
  double sum[count] = {};
  // Only the last call of a sum may have another n than a multiple of count.
  void add(const float* x, i64 n) {
    i64 i = 0;
    for (; i + count <= n; i += count)
      for (int l = 0; l < count; ++l) sum[l] += static_cast<double>(x[i + l]);
    for (int l = 0; i < n; ++i, ++l) sum[l] += static_cast<double>(x[i]);
  }
  double total() {
    for (int half = count / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
    return sum[0];
  }
};
// Short rows have fewer lanes, for these are added in the end.
constexpr i64 kShort = 256;
constexpr int kShortLanes = 8;

template <int count>
double sum_range(Work& w, const FormulaCall& call, i64 begin, i64 end) {
  Lanes<count> lanes;
  for (i64 i = begin; i < end; i += w.block) {
    const i64 n = smaller(w.block, end - i);
    run(w, call, i, n);
    lanes.add(w.value[call.result], n);
  }
  return lanes.total();
}

double sum(const FormulaCall& call, i64 begin, i64 end) {
  Work w(call);
  return sum_range<kLanes>(w, call, begin, end);
}

void sum_rows(const FormulaCall& call, i64 first, i64 last, float* sums) {
  Work w(call);
  const i64 cols = call.cols, once = cols <= kShort ? w.block / cols : 0;  // rows in a block
  if (once == 0) {
    const auto row = cols <= kShort ? sum_range<kShortLanes> : sum_range<kLanes>;
    for (i64 r = first; r < last; ++r)
      sums[r - first] = static_cast<float>(row(w, call, r * cols, (r + 1) * cols));
    return;
  }
  for (i64 r = first; r < last; r += once) {
    const i64 rows = smaller(once, last - r);
    run(w, call, r * cols, rows * cols);
    const float* x = w.value[call.result];
    for (i64 k = 0; k < rows; ++k) {
      Lanes<kShortLanes> lanes;
      lanes.add(x + k * cols, cols);
      sums[r - first + k] = static_cast<float>(lanes.total());
    }
  }
}

void sum_columns(const FormulaCall& call, i64 first_row, i64 last_row, i64 first_col, i64 last_col,
                 double* sums) {
  Work w(call);
  const i64 cols = last_col - first_col;
  for (i64 c = 0; c < cols; ++c) sums[c] = 0;
  const i64 once = cols == call.cols ? w.block / cols : 0;  // whole rows
  if (once > 0) {
    for (i64 r = first_row; r < last_row; r += once) {
      const i64 rows = smaller(once, last_row - r);
      run(w, call, r * cols, rows * cols);
      const float* x = w.value[call.result];
      for (i64 k = 0; k < rows; ++k)
        for (i64 c = 0; c < cols; ++c) sums[c] += static_cast<double>(x[k * cols + c]);
    }
    return;
  }
  for (i64 r = first_row; r < last_row; ++r)
    for (i64 c = 0; c < cols; c += w.block) {
      const i64 n = smaller(w.block, cols - c);
      run(w, call, r * call.cols + first_col + c, n);
      const float* x = w.value[call.result];
      double* to = sums + c;
#pragma omp simd
      for (i64 k = 0; k < n; ++k) to[k] += static_cast<double>(x[k]);
    }
}

}  // namespace

const FormulaTable formula_table = {evaluate, sum, sum_rows, sum_columns};

}  // namespace spectrain::SPECTRAIN_ISA
