#include "model/operation.h"
#include "model/plan.h"

// What a recording does with each of its parameters.

namespace spectrain {

using Recording = Tape::Recording;

std::vector<std::uint8_t> prepared_parameters(const Tape& tape) {
  const Recording& r = tape.recording();
  std::vector<std::uint8_t> used(r.parameters.size(), 0);
  for (const Recording::Node& n : r.nodes)
    for (std::size_t k = 0; k < n.inputs.size(); ++k) {
      if (n.inputs[k] < 0 || !n.op->prepared_input(k)) continue;
      const Recording::ValueInfo& v = r.values[static_cast<std::size_t>(n.inputs[k])];
      if (v.kind != Recording::Kind::parameter)
        throw std::logic_error("a product's matrix must be a parameter");
      used[static_cast<std::size_t>(v.index)] = 1;
    }
  return used;
}

std::vector<double> roundings(const Tape& tape) {
  const Recording& r = tape.recording();
  std::vector<double> scales(r.parameters.size(), 0);
  for (const Recording::Node& n : r.nodes)
    for (std::size_t k = 0; k < n.inputs.size(); ++k)
      if (const double scale = n.op->rounded_input(k); n.inputs[k] >= 0 && scale > 0)
        scales[static_cast<std::size_t>(r.values[static_cast<std::size_t>(n.inputs[k])].index)] = scale;
  return scales;
}

std::vector<std::uint8_t> read_parameters(const Tape& tape) {
  const Recording& r = tape.recording();
  std::vector<std::uint8_t> read(r.parameters.size(), 0);
  for (const Recording::Node& n : r.nodes)
    for (std::size_t k = 0; k < n.inputs.size(); ++k) {
      if (n.inputs[k] < 0 || n.op->prepared_input(k)) continue;
      const Recording::ValueInfo& v = r.values[static_cast<std::size_t>(n.inputs[k])];
      if (v.kind == Recording::Kind::parameter) read[static_cast<std::size_t>(v.index)] = 1;
    }
  return read;
}

}  // namespace spectrain
