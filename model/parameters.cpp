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

// FNV-1a 64 over the name and the bytes, four at a time: to compare runs and ranks, not for security.
std::uint64_t fingerprint(const std::string& name, const std::vector<std::byte>& bytes) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  for (std::size_t k = 0; k + 4 <= bytes.size(); k += 4) {
    std::uint32_t word;
    std::memcpy(&word, bytes.data() + k, 4);
    h = (h ^ word) * 0x100000001b3ull;
  }
  return h;
}

// The largest prepared matrix in bf16.
std::size_t rounded_weight_bytes(const std::vector<ParameterInfo>& infos,
                                 const std::vector<std::uint8_t>& prepared) {
  std::size_t most = 0;
  for (std::size_t i = 0; i < infos.size(); ++i)
    if (prepared[i]) most = std::max(most, static_cast<std::size_t>(infos[i].shape.numel()) * 2);
  return most;
}

}  // namespace

Parameters::Parameters(const Tape& tape, Backend& backend, DType compute, bool training, Values values)
    : backend_(backend), compute_(compute), infos_(tape.parameters()) {
  const std::vector<std::uint8_t> used = prepared_parameters(tape), read = read_parameters(tape);
  FlatLayout layout = flat_layout(infos_, backend.master());
  offsets_ = std::move(layout.offsets);
  std::size_t value_bytes = 0;
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    has_value_.push_back(values == Values::all || read[i] || !used[i]);
    value_offsets_.push_back(value_bytes);
    if (has_value_[i])
      value_bytes += align_up(static_cast<std::size_t>(infos_[i].shape.numel()) * size_of(backend.master()));
  }
  if (value_bytes) values_ = backend.allocate(value_bytes, "weights");
  if (training) gradients_ = backend.allocate(layout.bytes, "gradients");
  prepared_.resize(infos_.size());
  rounded_.resize(infos_.size());
  const std::vector<double> rounding = training ? roundings(tape) : std::vector<double>(infos_.size(), 0);
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    const ParameterView v = view(i);
    if (has_value_[i]) backend.fill(v.value, 0);
    if (training) backend.fill(v.gradient, 0);
    if (used[i]) prepared_[i] = backend.prepare(has_value_[i] ? v.value : v.gradient, compute, training);
    if (rounding[i] > 0) rounded_[i] = backend.prepare_fp8(rounding[i], v.gradient, compute);
  }
}

Parameters::~Parameters() = default;

ParameterView Parameters::view(std::size_t i) const {
  const DType master = backend_.master();
  ParameterView v{&infos_[i], Tensor(nullptr, master, infos_[i].shape), {}};
  if (has_value_[i]) v.value = values_->view(master, infos_[i].shape, value_offsets_[i]);
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

const PreparedMatrix& Parameters::rounded(std::size_t i) const {
  if (!rounded_[i])
    throw std::logic_error(
        fmt::format("parameter {} takes part in no product of eight-bit floats", infos_[i].name));
  return *rounded_[i];
}

void Parameters::round_stochastically(std::uint64_t seed) {
  if (compute_ != DType::bf16) throw std::logic_error("only weights of bf16 are rounded stochastically");
  std::vector<std::uint8_t> prepared;
  for (const auto& matrix : prepared_) prepared.push_back(matrix != nullptr);
  rounding_seed_ = seed;
  rounding_streams_.clear();
  for (const ParameterInfo& p : infos_)  // none is that of an initializer
    rounding_streams_.push_back(stream_of(("rounding of " + p.name).c_str()));
  rounded_weights_ =
      backend_.allocate(std::max(rounded_weight_bytes(infos_, prepared), std::size_t{64}), "rounded weights");
}

void Parameters::round(std::size_t i, std::int64_t first, const Tensor& from, const Tensor& to) {
  const std::uint64_t stream =
      rounding_streams_[i] + static_cast<std::uint64_t>(steps_) * 0x9e3779b97f4a7c15ull;
  backend_.round_stochastic(from, {rounding_seed_, stream}, first, to);
}

void Parameters::prepare(std::size_t i, const Tensor& values) {
  if (prepared_[i] && rounded_weights_) {
    const Tensor rounded = rounded_weights_->view(DType::bf16, infos_[i].shape);
    round(i, 0, values, rounded);
    backend_.refresh(*prepared_[i], rounded);
  } else if (prepared_[i]) {
    backend_.refresh(*prepared_[i], values);
  }
  if (rounded_[i]) backend_.refresh_fp8(*rounded_[i], values);
}

void Parameters::assign(const std::function<void(std::size_t, const Tensor&)>& fill,
                        const std::function<void(std::size_t, const Tensor&)>& seen) {
  std::unique_ptr<Buffer> memory;  // for values that are not kept
  std::int64_t most = 0;
  for (std::size_t i = 0; i < size(); ++i)
    if (!has_value_[i]) most = std::max(most, infos_[i].shape.numel());
  if (most)
    memory = backend_.allocate(static_cast<std::size_t>(most) * size_of(backend_.master()), "one parameter");
  for (std::size_t i = 0; i < size(); ++i) {
    const Tensor whole = has_value_[i] ? view(i).value : memory->view(backend_.master(), infos_[i].shape);
    fill(i, whole);
    prepare(i, whole);
    if (seen) seen(i, whole);
  }
}

void Parameters::initialize(std::uint64_t seed, const std::function<void(std::size_t, const Tensor&)>& seen) {
  const auto random = [&](std::size_t i, const Tensor& whole) {
    const ParameterInfo& p = infos_[i];
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
  };
  assign(random, seen);
}

void Parameters::refresh() {
  for (std::size_t i = 0; i < size(); ++i) refresh(i);
}

void Parameters::refresh(std::size_t i) {
  if (has_value_[i]) prepare(i, view(i).value);
}

void Parameters::set(std::size_t i, const Tensor& values) {
  if (has_value_[i]) backend_.copy(values, view(i).value);
  prepare(i, values);
}

std::uint64_t Parameters::hash(std::size_t i) const {
  if (!has_value_[i]) return fingerprint(infos_[i].name, backend_.contents(*prepared_[i]));
  const Tensor x = view(i).value;
  std::vector<std::byte> bytes(x.bytes());
  backend_.copy_to_host(bytes.data(), x);
  return fingerprint(infos_[i].name, bytes);
}

std::uint64_t Parameters::hash() const {
  std::uint64_t h = 0;
  for (std::size_t i = 0; i < size(); ++i) h = h * 0x9e3779b97f4a7c15ull + hash(i);
  return h;
}

MemoryPlan plan_memory(const Tape& tape, const BackendSizes& backend, const ProgramOptions& options) {
  const Tape::Recording& r = tape.recording();
  if (r.nodes.empty()) throw std::logic_error("nothing was recorded on the tape");
  const DType master = backend.master();
  const Plan plan =
      make_plan(tape, {r.nodes.back().outputs[0]}, master, backend.logits(options.compute), options);
  MemoryPlan m;
  m.weights = flat_layout(r.parameters, master).bytes;
  if (options.training) m.gradients = m.weights;
  const std::vector<std::uint8_t> used = prepared_parameters(tape);
  for (std::size_t i = 0; i < used.size(); ++i)
    if (used[i])
      m.prepared += backend.prepared_bytes(r.parameters[i].shape, options.compute, options.training);
  if (options.training) {
    const std::vector<double> rounding = roundings(tape);
    for (std::size_t i = 0; i < rounding.size(); ++i)
      if (rounding[i] > 0) m.prepared += backend.prepared_fp8_bytes(r.parameters[i].shape, options.compute);
  }
  if (options.stochastic_rounding) m.workspace += rounded_weight_bytes(r.parameters, used);
  m.activations = plan.arena_bytes;
  m.workspace += plan.workspace_bytes + leaf_bytes(tape, master, options.compute) + backend.working_bytes();
  return m;
}

}  // namespace spectrain
