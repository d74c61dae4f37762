#pragma once

#include "kernels/formula_program.h"
#include "tests/kernels/kernel_cases.h"

// What the tests of formulas share: a call on the backend under test and on the reference.

namespace spectrain {

class FormulaCases : public KernelTest {
 protected:
  void run(const Formula& f, const std::vector<double>& numbers, const std::vector<Twin>& twins) {
    cpu().evaluate(f, numbers, tested(twins));
    exact().evaluate(f, numbers, exactly(twins));
  }
  void sum(const Formula& f, const std::vector<double>& numbers, const std::vector<Twin>& twins, Extent over,
           const Twin& out) {
    cpu().reduce(f, numbers, tested(twins), over, out.tested);
    exact().reduce(f, numbers, exactly(twins), over, out.exact);
  }
  static std::vector<Tensor> tested(const std::vector<Twin>& twins) {
    std::vector<Tensor> all;
    for (const Twin& t : twins) all.push_back(t.tested);
    return all;
  }
  static std::vector<Tensor> exactly(const std::vector<Twin>& twins) {
    std::vector<Tensor> all;
    for (const Twin& t : twins) all.push_back(t.exact);
    return all;
  }
  std::vector<DType> dtypes() const {
    std::vector<DType> all = {DType::f32, DType::bf16};
    if (!on_cpu()) all.push_back(DType::f16);
    return all;
  }
  // The backend itself, with memory of its own: what KernelTest gives brings every tensor to a new address.
  std::unique_ptr<Backend> bare(const CudaOptions& options = {}) const {
    if (on_cpu()) return make_cpu_backend({.threads = GetParam().threads});
    if (GetParam().kind != Setup::Kind::gpu) return make_emulated_cuda_backend(options);
    std::string reason;
    return make_cuda_backend(options, reason);
  }
};

}  // namespace spectrain
