#include "kernels/cpu/isa/convert.h"

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

inline double load(const double* p) { return *p; }
inline void store(double* p, double x) { *p = x; }
using SPECTRAIN_ISA::load;
using SPECTRAIN_ISA::store;

// What two element types are computed in: float, unless one of them is double.
template <class A, class B>
struct Wide {
  using type = float;
};
template <class B>
struct Wide<double, B> {
  using type = double;
};
template <class A>
struct Wide<A, double> {
  using type = double;
};
template <>
struct Wide<double, double> {
  using type = double;
};

inline void put(double* p, double x) { *p = x; }
inline void put(float* p, double x) { *p = static_cast<float>(x); }
inline void put(float* p, float x) { *p = x; }
inline void put(std::uint16_t* p, float x) { store(p, x); }
inline void put(std::uint16_t* p, double x) { store(p, static_cast<float>(x)); }

template <class From, class To>
void convert(const void* from, void* to, std::int64_t n) {
  const From* __restrict x = static_cast<const From*>(from);
  To* __restrict y = static_cast<To*>(to);
  using W = typename Wide<From, To>::type;
  for (std::int64_t i = 0; i < n; ++i) put(y + i, static_cast<W>(load(x + i)));
}

template <class X, class Y>
void axpby(double a_, const void* x_, double b_, void* y_, std::int64_t n) {
  const X* __restrict x = static_cast<const X*>(x_);
  Y* __restrict y = static_cast<Y*>(y_);
  using W = typename Wide<X, Y>::type;
  const W a = static_cast<W>(a_), b = static_cast<W>(b_);
  if (b_ == 0) {
    for (std::int64_t i = 0; i < n; ++i) put(y + i, a * static_cast<W>(load(x + i)));
  } else {
    for (std::int64_t i = 0; i < n; ++i)
      put(y + i, a * static_cast<W>(load(x + i)) + b * static_cast<W>(load(y + i)));
  }
}

}  // namespace

using u16 = std::uint16_t;
const ConvertTable convert_table = {
    {{convert<double, double>, convert<double, float>, convert<double, u16>},
     {convert<float, double>, convert<float, float>, convert<float, u16>},
     {convert<u16, double>, convert<u16, float>, convert<u16, u16>}},
    {{axpby<double, double>, axpby<double, float>, axpby<double, u16>},
     {axpby<float, double>, axpby<float, float>, axpby<float, u16>},
     {axpby<u16, double>, axpby<u16, float>, axpby<u16, u16>}},
};

}  // namespace spectrain::SPECTRAIN_ISA
