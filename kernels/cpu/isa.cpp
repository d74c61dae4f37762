#include "kernels/cpu/isa/isa.h"

namespace spectrain {
namespace {

Isa detect() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4"))
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa limit = Isa::avx512_bf16;

}  // namespace

Isa cpu_isa() {
  static const Isa detected = detect();
  return detected < limit ? detected : limit;
}

void limit_cpu_isa(Isa most) { limit = most; }

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "AVX2";
    case Isa::avx512: return "AVX-512";
    case Isa::avx512_bf16: return "AVX-512 with bf16";
  }
  return "?";
}

}  // namespace spectrain
