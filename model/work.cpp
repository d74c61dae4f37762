#include "model/work.h"

#include <algorithm>

namespace spectrain {
namespace {

double bytes_of(const Tensor& t) { return t ? static_cast<double>(t.bytes()) : 0; }

double bytes_of(const std::vector<Tensor>& tensors) {
  double sum = 0;
  for (const Tensor& t : tensors) sum += bytes_of(t);
  return sum;
}

// Input i as it is read: matrices in the form that products take, of tables the rows that are looked up.
double read_bytes(const Operation& op, const Run& run, std::size_t i, std::int64_t rows) {
  if (i < run.prepared.size() && run.prepared[i])
    return static_cast<double>(run.prepared[i]->rows() * run.prepared[i]->cols()) *
           static_cast<double>(size_of(run.compute));
  const Tensor& x = run.in[i];
  if (!x || !op.looks_up(i)) return bytes_of(x);
  return bytes_of(x) * std::min(1.0, static_cast<double>(rows) / static_cast<double>(x.rows()));
}

}  // namespace

double floor_seconds(const Work& work, const MachineRates& rates) {
  return std::max(work.flops / rates.flops, work.bytes / rates.bytes);
}

Work forward_work(const Operation& op, const Run& run) {
  const bool moves = run.in.empty() || run.out.empty() || run.in[0].data != run.out[0].data;
  if (!moves && !op.forward_in_place()) return {};  // another view of the same memory
  Work w{op.flops(run, false), bytes_of(run.out)};
  for (std::size_t i = 0; i < run.in.size(); ++i) w.bytes += read_bytes(op, run, i, run.out[0].rows());
  return w;
}

Work backward_work(const Operation& op, const Run& run) {
  if (op.passes_gradient()) return {};
  Work w{op.flops(run, true), bytes_of(run.dout)};
  for (std::size_t i = 0; i < run.in.size(); ++i) {
    const bool weights = i < run.prepared.size() && run.prepared[i];
    if (op.is_loss() || op.backward_reads_input(i) || (weights && run.din[0]))
      w.bytes += read_bytes(op, run, i, run.in[0].rows());
  }
  for (std::size_t i = 0; i < run.out.size(); ++i)
    if (op.is_loss() || op.backward_reads_output(i)) w.bytes += bytes_of(run.out[i]);
  for (std::size_t i = 0; i < run.din.size(); ++i) {
    const Tensor& dx = run.din[i];
    if (!dx) continue;
    const bool adds = op.only_adds(i) || (i < run.accumulate.size() && run.accumulate[i]);
    double bytes = bytes_of(dx) * (adds ? 2 : 1);
    if (op.looks_up(i))
      bytes *= std::min(1.0, static_cast<double>(run.dout[0].rows()) / static_cast<double>(dx.rows()));
    w.bytes += bytes;
  }
  return w;
}

}  // namespace spectrain
