#pragma once

#include <cstddef>
#include <cstdint>

// Files in this directory are compiled once for each instruction set (baseline x86-64 or any other CPU, AVX2,
// AVX-512 with bf16) into namespace spectrain::SPECTRAIN_ISA; cpuid picks one set at run time.
//
// What such a .cpp may use: <cmath>, <cstdint>, <cstring>, <immintrin.h>, <omp.h> and the headers of this
// directory, raw pointers and plain structs, and no inline function or template defined elsewhere (but those of
// kernels/formulas.h, which take a type of this namespace): the linker keeps one copy for the whole program, and it
// could be the AVX-512 one. All else stands in namespace spectrain::SPECTRAIN_ISA. A test checks the object files.
//
// The pattern for a family:
//   isa/norm.h     struct NormTable { void (*forward)(const NormArgs&); ... };
//                  SPECTRAIN_ISA_TABLE(NormTable, norm_table)     // declares it in all three namespaces
//   isa/norm.cpp   namespace spectrain::SPECTRAIN_ISA { ... const NormTable norm_table = {...}; }
//   norm.cpp       const NormTable& table = SPECTRAIN_ISA_SELECT(norm_table);

namespace spectrain {

enum class Isa { baseline, avx2, avx512, avx512_bf16 };
Isa cpu_isa();                 // the best this CPU and build have; never above the limit set below
const char* name_of(Isa isa);
void limit_cpu_isa(Isa most);  // for tests, before a backend is made

#if defined(__x86_64__)
#define SPECTRAIN_ISA_TABLE(Type, name)   \
  namespace baseline {                    \
  extern const Type name;                 \
  }                                       \
  namespace avx2 {                        \
  extern const Type name;                 \
  }                                       \
  namespace avx512 {                      \
  extern const Type name;                 \
  }
#define SPECTRAIN_ISA_SELECT(name)                                      \
  (::spectrain::cpu_isa() >= ::spectrain::Isa::avx512 ? avx512::name    \
   : ::spectrain::cpu_isa() == ::spectrain::Isa::avx2 ? avx2::name      \
                                                      : baseline::name)
#else
#define SPECTRAIN_ISA_TABLE(Type, name) \
  namespace baseline {                  \
  extern const Type name;               \
  }
#define SPECTRAIN_ISA_SELECT(name) (baseline::name)
#endif

}  // namespace spectrain
