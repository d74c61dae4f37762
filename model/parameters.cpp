#include <fmt/format.h>

#include <cstring>

#include "model/plan.h"
#include "model/program.h"

namespace spectrain {
namespace {

struct FlatLayout {
  std::vector<std::size_t> offsets;
  std::size_t bytes = 0;
};

FlatLayout flat_layout(const std::vector<ParameterInfo>& infos, DType master) {
  FlatLayout layout;
  for (const ParameterInfo& p : infos) {
    layout.offsets.push_back(layout.bytes);
    layout.bytes += align_up(static_cast<std::size_t>(p.shape.numel()) * size_of(master));
  }
  return layout;
}

}  // namespace

Parameters::Parameters(const Tape& tape, Backend& backend, DType compute, bool training)
    : backend_(backend), infos_(tape.parameters()) {
  FlatLayout layout = flat_layout(infos_, backend.master());
  offsets_ = std::move(layout.offsets);
  values_ = backend.allocate(layout.bytes, "weights");
  if (training) gradients_ = backend.allocate(layout.bytes, "gradients");
  const std::vector<std::uint8_t> used = prepared_parameters(tape);
  prepared_.resize(infos_.size());
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    backend.fill(view(i).value, 0);
    if (training) backend.fill(view(i).gradient, 0);
    if (used[i]) prepared_[i] = backend.prepare(view(i).value, compute, training);
  }
}

Parameters::~Parameters() = default;

ParameterView Parameters::view(std::size_t i) const {
  const DType master = backend_.master();
  ParameterView v{&infos_[i], values_->view(master, infos_[i].shape, offsets_[i]), {}};
  if (gradients_) v.gradient = gradients_->view(master, infos_[i].shape, offsets_[i]);
  return v;
}

std::vector<ParameterView> Parameters::views() const {
  std::vector<ParameterView> list;
  for (std::size_t i = 0; i < size(); ++i) list.push_back(view(i));
  return list;
}

int Parameters::find(std::string_view name) const {
  for (std::size_t i = 0; i < size(); ++i)
    if (infos_[i].name == name) return static_cast<int>(i);
  return -1;
}

const PreparedMatrix& Parameters::prepared(std::size_t i) const {
  if (!prepared_[i])
    throw std::logic_error(fmt::format("parameter {} takes part in no product", infos_[i].name));
  return *prepared_[i];
}

void Parameters::initialize(std::uint64_t seed) {
  for (std::size_t i = 0; i < size(); ++i) {
    const ParameterInfo& p = infos_[i];
    const Tensor whole = view(i).value;
    const RandomKey key{seed, stream_of(p.name.c_str())};
    backend_.fill(whole, 0);  // padding rows stay zero
    const Tensor x = p.shape.rank() == 2 ? whole.slice_rows(0, p.logical_rows) : whole;
    switch (p.init.kind) {
      case Initializer::Kind::constant:
        backend_.fill(x, p.init.value);
        break;
      case Initializer::Kind::normal:
        backend_.fill_normal(x, key, 0, static_cast<float>(p.init.value));
        break;
      case Initializer::Kind::uniform:
        backend_.fill_uniform(x, key, -static_cast<float>(p.init.value), static_cast<float>(p.init.value));
        break;
    }
  }
  refresh();
}

void Parameters::refresh() {
  for (std::size_t i = 0; i < size(); ++i)
    if (prepared_[i]) backend_.refresh(*prepared_[i], view(i).value);
}

std::uint64_t Parameters::hash() const {
  std::uint64_t h = 0xcbf29ce484222325ull;
  std::vector<std::byte> host;
  for (std::size_t i = 0; i < size(); ++i) {
    const Tensor x = view(i).value;
    host.resize(x.bytes());
    backend_.copy_to_host(host.data(), x);
    for (const char c : infos_[i].name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    // Four bytes at a time: the hash is for comparing runs, not for security.
    for (std::size_t k = 0; k + 4 <= host.size(); k += 4) {
      std::uint32_t word;
      std::memcpy(&word, host.data() + k, 4);
      h = (h ^ word) * 0x100000001b3ull;
    }
  }
  return h;
}

MemoryPlan plan_memory(const Tape& tape, const Backend& backend, const ProgramOptions& options) {
  const Tape::Recording& r = tape.recording();
  if (r.nodes.empty()) throw std::logic_error("nothing was recorded on the tape");
  const DType master = backend.master();
  const Plan plan = make_plan(tape, {r.nodes.back().outputs[0]}, master, options);
  MemoryPlan m;
  m.weights = flat_layout(r.parameters, master).bytes;
  if (options.training) m.gradients = m.weights;
  const std::vector<std::uint8_t> used = prepared_parameters(tape);
  for (std::size_t i = 0; i < used.size(); ++i)
    if (used[i])
      m.prepared += backend.prepared_bytes(r.parameters[i].shape, options.compute, options.training);
  m.activations = plan.arena_bytes;
  m.workspace = plan.workspace_bytes + leaf_bytes(tape, master) + backend.working_bytes();
  return m;
}

}  // namespace spectrain
