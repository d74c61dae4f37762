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
  machine.onednn_bf16 = machine.onednn && OnednnProducts::has_bf16();
  return machine;
}

MatrixEngine choose_engine(const MatrixMachine& machine, DType compute) {
  if (!machine.onednn || (compute == DType::bf16 && !machine.onednn_bf16)) return MatrixEngine::own;
  if (forced) return *forced;
  // AMX tiles multiply bf16 several times faster than any vector instruction, and only oneDNN has them.
  if (compute == DType::bf16 && machine.amx_bf16) return MatrixEngine::onednn;
  // Everywhere else the own kernels. Shares of the register-only peak on Zen 4, two busy cores, 4096 rows,
  // own against oneDNN:
  //   prepared  f32 0.83-0.88 : 0.92-0.93   bf16 0.84-0.88 : 0.88-0.95
  //   weight    f32 0.79      : 0.89-0.91   bf16 0.77      : 0.73-0.75
  // oneDNN takes up to twice as long to pack the weights after every step, cuts its work in equal parts that
  // wait for the slowest core, and leaves activations to a second pass. Its sgemm, which the float32 weight
  // figures are of, is not used: a training run under heavy load once ended inside it with a corrupted heap.
  return MatrixEngine::own;
}

void force_engine(MatrixEngine engine) { forced = engine; }
void forget_forced_engine() { forced.reset(); }

}  // namespace spectrain
