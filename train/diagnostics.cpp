#include "train/diagnostics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/error.h"

namespace spectrain {
namespace {

// What rules call their running mean of gradients, in the order of preference.
constexpr std::string_view kMomenta[] = {"momentum", "adam_m", "fast"};

constexpr std::size_t kAlignment = 64;  // of every update: what devices read fastest

Tensor range(const Tensor& x, std::int64_t first, std::int64_t count) {
  auto* data = static_cast<std::byte*>(x.data) + static_cast<std::size_t>(first) * size_of(x.dtype);
  return {data, x.dtype, Shape{count}};
}

std::vector<const ParameterInfo*> infos_of(const Parameters& parameters) {
  std::vector<const ParameterInfo*> infos;
  for (std::size_t i = 0; i < parameters.size(); ++i) infos.push_back(&parameters.info(i));
  return infos;
}

// Of a tensor of the master dtype.
std::vector<double> to_host(Backend& backend, const Tensor& x) {
  const auto n = static_cast<std::size_t>(x.numel());
  if (x.dtype == DType::f64) {
    std::vector<double> values(n);
    backend.copy_to_host(values.data(), x);
    return values;
  }
  std::vector<float> values(n);
  backend.copy_to_host(values.data(), x);
  return {values.begin(), values.end()};
}

// A norm that something may be divided by, in float32 too.
bool divides(double norm) {
  return std::isfinite(norm) && norm >= static_cast<double>(std::numeric_limits<float>::min());
}

}  // namespace

Diagnostics::Diagnostics(Backend& backend, Collectives& collectives, const Parameters& parameters,
                         const DistributedOptimizer& optimizer, const RunConfig& config)
    : backend_(backend),
      collectives_(collectives),
      optimizer_(optimizer),
      section_(config.diagnostics),
      last_(config.last_step()) {
  const std::vector<const ParameterInfo*> infos = infos_of(parameters);
  // Names are checked where nothing is measured, too: somebody will switch it on.
  matrices_ = chosen_matrices(infos, section_.matrices);
  if (section_.deciles)
    deciles_.emplace(
        count_targets(expand_shards(config.data.train), config.batch.context, config.model.vocab));
  if (section_.every == 0) return;
  groups_ = optimizer.groups();
  parts_ = optimizer.parts();
  for (const ChosenMatrix& m : matrices_) momenta_.push_back(momentum_of(infos[m.parameter]->name));
  const Term after = difference_.tensor(1);
  difference_.assign(0, after - difference_.tensor(0));
  product_.sum_of((product_.number(0) * product_.tensor(0)) * (product_.number(1) * product_.tensor(1)));
  take_memory();
}

Diagnostics::~Diagnostics() = default;

// Every rank must come to the same, so it is asked of the whole model's state, not of what is here.
std::string Diagnostics::momentum_of(const std::string& parameter) const {
  for (const std::string_view slot : kMomenta) {
    const std::string name = parameter + "." + std::string(slot);
    for (const StateTensor& s : optimizer_.state_layout())
      if (s.name == name) return std::string(slot);
  }
  return {};
}

// All of it now, not an hour into the run.
void Diagnostics::take_memory() {
  const DType master = backend_.master();
  const std::size_t size = size_of(master);
  std::size_t own = 0;
  std::vector<std::size_t> offsets;
  for (const MeasuredPart& p : parts_) {
    offsets.push_back(own);
    own += (p.weight.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  before_memory_ = backend_.allocate(std::max(own, size), "weights before a step");
  for (std::size_t i = 0; i < parts_.size(); ++i)
    update_.push_back(before_memory_->view(master, parts_[i].weight.shape, offsets[i]));
  const std::size_t sums = 3 * groups_.size() * sizeof(double);
  sums_memory_ = backend_.allocate(sums + std::max<std::size_t>(1, parts_.size()) * size, "sums over groups");
  sums_ = sums_memory_->view(DType::f64, {static_cast<std::int64_t>(3 * groups_.size())});
  for (std::size_t i = 0; i < parts_.size(); ++i)
    products_.push_back(sums_memory_->view(master, {1}, sums + i * size));

  std::int64_t largest = 0, longest = 0;
  for (const ChosenMatrix& m : matrices_) {
    largest = std::max(largest, m.rows * m.cols);
    longest = std::max(longest, std::min(m.rows, m.cols));
  }
  if (largest == 0) return;
  matrix_memory_ = backend_.allocate(static_cast<std::size_t>(largest + longest) * size, "a chosen matrix");
  matrix_ = matrix_memory_->view(master, {largest});
  values_ = matrix_memory_->view(master, {longest}, matrix_.bytes());
  if (collectives_.rank() > 0) return;
  // A factorisation takes its memory when it is first computed; of zeros it is done at once.
  for (const ChosenMatrix& m : matrices_) {
    backend_.fill(matrix_, 0);
    backend_.svd(range(matrix_, 0, m.rows * m.cols).reshaped({m.rows, m.cols}), {},
                 range(values_, 0, std::min(m.rows, m.cols)), {});
  }
}

bool Diagnostics::due(std::int64_t step) const {
  return section_.every > 0 && (step % section_.every == 0 || step == last_);
}

void Diagnostics::remember_weights() {
  for (std::size_t i = 0; i < parts_.size(); ++i) backend_.copy(parts_[i].weight, update_[i]);
  backend_.synchronize();  // a device's time for it must not count as training
}

DiagnosticsRecord Diagnostics::measure() {
  for (std::size_t i = 0; i < parts_.size(); ++i)
    backend_.evaluate(difference_, {}, {update_[i], parts_[i].weight});
  DiagnosticsRecord record;
  record.groups = measure_groups();
  for (std::size_t m = 0; m < matrices_.size(); ++m)
    for (const Kind kind : {kWeight, kMomentum, kUpdate})
      if (kind != kMomentum || !momenta_[m].empty()) record.spectra.push_back(spectrum(m, kind));
  return record;
}

DiagnosticsRecord Diagnostics::decile_record() const {
  DiagnosticsRecord record;
  if (deciles_) record.deciles = deciles_->measurement(backend_, collectives_);
  return record;
}

// ---------------------------------------------------------------------------------------------- groups

// Replicas have everything already, each of them.
void Diagnostics::add_over_ranks(const Tensor& x, const char* what) {
  if (shared()) collectives_.wait(collectives_.all_reduce(x, Reduce::sum, what));
}

std::vector<double> Diagnostics::sums_of_squares() {
  std::vector<std::vector<Tensor>> tensors(3 * groups_.size());
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const std::size_t g = 3 * parts_[i].group;
    tensors[g].push_back(parts_[i].weight);
    tensors[g + 1].push_back(parts_[i].gradient);
    tensors[g + 2].push_back(update_[i]);
  }
  backend_.fill(sums_, 0);
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (!tensors[i].empty()) backend_.add_squares(tensors[i], range(sums_, static_cast<std::int64_t>(i), 1));
  add_over_ranks(sums_, "norms of the groups");
  std::vector<double> sums = to_host(backend_, sums_);
  collectives_.check();
  return sums;
}

std::vector<GroupMeasurement> Diagnostics::measure_groups() {
  const std::vector<double> squares = sums_of_squares();
  std::vector<GroupMeasurement> all;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    GroupMeasurement m{groups_[g].parameters, groups_[g].rule, std::sqrt(squares[3 * g]),
                       std::sqrt(squares[3 * g + 1]), std::sqrt(squares[3 * g + 2])};
    m.update_to_weight = m.update_norm == 0 ? 0 : m.update_norm / m.weight_norm;
    all.push_back(std::move(m));
  }
  const std::vector<double> cosines = products(all);
  std::vector<GroupMeasurement> out;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].numbers == 0) continue;
    all[g].cosine = cosines[g] == 0 ? 0 : std::clamp(-cosines[g], -1.0, 1.0);
    out.push_back(std::move(all[g]));
  }
  return out;
}

// By group, <U / |U|, G / |G|>: of scaled elements, for products of a small update and a small gradient are
// below what float32 holds.
std::vector<double> Diagnostics::products(const std::vector<GroupMeasurement>& groups) {
  backend_.fill(sums_, 0);
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const GroupMeasurement& g = groups[parts_[i].group];
    if (!divides(g.update_norm) || !divides(g.gradient_norm)) continue;
    backend_.reduce(product_, {1 / g.update_norm, 1 / g.gradient_norm}, {update_[i], parts_[i].gradient},
                    Extent::one, products_[i]);
    backend_.add_sum(products_[i], range(sums_, static_cast<std::int64_t>(parts_[i].group), 1));
  }
  add_over_ranks(sums_, "products of the groups");
  std::vector<double> sums = to_host(backend_, sums_);
  collectives_.check();
  return sums;
}

// ---------------------------------------------------------------------------------------------- matrices

// What a part has of it; null: nothing.
const Tensor* Diagnostics::source(std::size_t part, Kind kind, const std::string& momentum) const {
  if (kind == kWeight) return &parts_[part].weight;
  if (kind == kUpdate) return &update_[part];
  for (const auto& [name, tensor] : parts_[part].state)
    if (name == momentum && tensor.numel() == parts_[part].weight.numel()) return &tensor;
  return nullptr;
}

// Into matrix_, from the parts that hold some of it.
void Diagnostics::assemble(std::size_t matrix, Kind kind) {
  const ChosenMatrix& m = matrices_[matrix];
  const std::int64_t numel = m.rows * m.cols;
  const Tensor whole = range(matrix_, 0, numel);
  if (shared()) backend_.fill(whole, 0);
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const MeasuredPart& p = parts_[i];
    if (p.parameter != m.parameter) continue;
    const std::int64_t begin = std::max(p.first, m.first),
                       end = std::min(p.first + p.weight.numel(), m.first + numel);
    const Tensor* from = source(i, kind, momenta_[matrix]);
    if (begin < end && from)
      backend_.copy(range(*from, begin - p.first, end - begin), range(whole, begin - m.first, end - begin));
  }
  add_over_ranks(whole, "a matrix to be measured");
}

// Of what is in matrix_, which is lost. NaN where there are none: a measurement does not end a run.
std::vector<double> Diagnostics::singular_values(const ChosenMatrix& m) {
  const std::int64_t count = std::min(m.rows, m.cols);
  const Tensor a = range(matrix_, 0, m.rows * m.cols).reshaped({m.rows, m.cols});
  const Tensor s = range(values_, 0, count);
  if (!backend_.all_finite(a))
    return std::vector<double>(static_cast<std::size_t>(count), std::numeric_limits<double>::quiet_NaN());
  try {
    backend_.svd(a, {}, s, {});
  } catch (const Error&) {  // it did not converge
    return std::vector<double>(static_cast<std::size_t>(count), std::numeric_limits<double>::quiet_NaN());
  }
  return to_host(backend_, s);
}

SpectrumMeasurement Diagnostics::spectrum(std::size_t matrix, Kind kind) {
  const ChosenMatrix& m = matrices_[matrix];
  constexpr const char* kNames[] = {"weight", "momentum", "update"};
  SpectrumMeasurement out{m.name, kNames[kind], m.rows, m.cols, 0, 0, 0, {}};
  assemble(matrix, kind);
  if (collectives_.rank() > 0) return out;
  const std::vector<double> s = singular_values(m);
  out.norm = frobenius_norm(s);
  out.stable_rank = stable_rank(s);
  out.effective_rank = effective_rank(s);
  for (const std::size_t i : chosen_places(s.size(), static_cast<std::size_t>(section_.spectrum)))
    out.singular_values.push_back(s[i]);
  return out;
}

}  // namespace spectrain
