#include <fmt/format.h>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/library.h"

namespace spectrain {
namespace {

template <class F>
void look_up(const Library& library, F& function, const char* name) {
  function = library.function<F>(name);
}

CublasLt load() {
  // The major version of the headers: the layouts of its structures hold within one.
  const Library library = Library::open("cuBLASLt", fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR));
  if (!library) throw Error("matrix products on a GPU need NVIDIA's cuBLAS: " + library.why_not());
  CublasLt lt{};
  look_up(library, lt.create, "cublasLtCreate");
  look_up(library, lt.destroy, "cublasLtDestroy");
  look_up(library, lt.version, "cublasLtGetVersion");
  look_up(library, lt.status_name, "cublasLtGetStatusName");
  look_up(library, lt.operation_create, "cublasLtMatmulDescCreate");
  look_up(library, lt.operation_destroy, "cublasLtMatmulDescDestroy");
  look_up(library, lt.operation_set, "cublasLtMatmulDescSetAttribute");
  look_up(library, lt.layout_create, "cublasLtMatrixLayoutCreate");
  look_up(library, lt.layout_destroy, "cublasLtMatrixLayoutDestroy");
  look_up(library, lt.layout_set, "cublasLtMatrixLayoutSetAttribute");
  look_up(library, lt.preference_create, "cublasLtMatmulPreferenceCreate");
  look_up(library, lt.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  look_up(library, lt.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  look_up(library, lt.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  look_up(library, lt.check_algorithm, "cublasLtMatmulAlgoCheck");
  look_up(library, lt.matmul, "cublasLtMatmul");
  return lt;
}

}  // namespace

const CublasLt& open_cublaslt() {
  static const CublasLt lt = load();
  return lt;
}

}  // namespace spectrain
