#include "kernels/cpu/matrix_choice.h"

#include <optional>

#include "kernels/cpu/matrix_onednn.h"

namespace spectrain {
namespace {

std::optional<MatrixEngine> forced;

}  // namespace

MatrixMachine matrix_machine(bool use_onednn) {
  MatrixMachine machine;
  machine.isa = cpu_isa();
  machine.onednn = use_onednn && OnednnProducts::built_in();
  machine.amx_bf16 = machine.onednn && OnednnProducts::amx_bf16();
  return machine;
}

MatrixEngine choose_engine(const MatrixMachine& machine, Product product, DType compute) {
  if (!machine.onednn) return MatrixEngine::own;
  if (forced) return *forced;
  // AMX tiles multiply bf16 several times faster than any vector instruction, and only oneDNN has them.
  if (compute == DType::bf16) return machine.amx_bf16 ? MatrixEngine::onednn : MatrixEngine::own;
  // Zen 4, float32, one busy neighbour: oneDNN's sgemm 104-106 GFLOP/s a core against 88-95 where both
  // operands have to be packed in the call; even (94-102 against 97-105) where the weights are prepared, and
  // there the own kernels add bias and sums on the way out.
  if (machine.isa >= Isa::avx512 && product != Product::prepared) return MatrixEngine::onednn;
  return MatrixEngine::own;
}

void force_engine(MatrixEngine engine) { forced = engine; }
void forget_forced_engine() { forced.reset(); }

}  // namespace spectrain
