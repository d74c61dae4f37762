#include "kernels/cpu/isa/reduction.h"

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using u16 = std::uint16_t;
constexpr int kLanes = 16;

inline double wide(const double* p) { return *p; }
inline double wide(const float* p) { return static_cast<double>(*p); }
inline double wide(const u16* p) { return static_cast<double>(load(p)); }

// The square of a float is exact in double, so a fused multiply-add and a separate one agree.
template <class T, bool Square>
double total(const void* x_, std::int64_t n) {
  const T* x = static_cast<const T*>(x_);
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const double v = wide(x + i + l);
      lanes[l] += Square ? v * v : v;
    }
  for (int l = 0; i < n; ++i, ++l) {
    const double v = wide(x + i);
    lanes[l] += Square ? v * v : v;
  }
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lanes[l];
  return sum;
}

// All exponent bits set means infinity or NaN.
bool finite_f32(const void* x_, std::int64_t n) {
  const float* x = static_cast<const float*>(x_);
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) bad |= (as_bits(x[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  return bad == 0;
}
bool finite_bf16(const void* x_, std::int64_t n) {
  const u16* x = static_cast<const u16*>(x_);
  u16 bad = 0;
  for (std::int64_t i = 0; i < n; ++i) bad = static_cast<u16>(bad | ((x[i] & 0x7f80u) == 0x7f80u ? 1u : 0u));
  return bad == 0;
}
bool finite_f64(const void* x_, std::int64_t n) {
  const double* x = static_cast<const double*>(x_);
  std::uint64_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint64_t u;
    std::memcpy(&u, x + i, 8);
    bad |= (u & 0x7ff0000000000000u) == 0x7ff0000000000000u ? 1u : 0u;
  }
  return bad == 0;
}

}  // namespace

const ReductionTable reduction_table = {
    {total<double, false>, total<float, false>, total<u16, false>},
    {total<double, true>, total<float, true>, total<u16, true>},
    {finite_f64, finite_f32, finite_bf16},
};

}  // namespace spectrain::SPECTRAIN_ISA
