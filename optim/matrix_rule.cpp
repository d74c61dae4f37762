#include "optim/matrix_rule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace spectrain {

MatrixRule::MatrixRule(MatrixRuleSettings settings, std::vector<std::unique_ptr<MatrixStage>> stages,
                       const FinishOptions& finish)
    : settings_(std::move(settings)),
      stages_(std::move(stages)),
      finish_(finish, settings_.lr, settings_.weight_decay),
      smallest_side_(finish.smallest_side) {
  check(finish, settings_.name, settings_.weight_decay);
  check_storage_is_f32(finish, settings_.name);
}

std::string not_a_matrix(const Shape& part, std::int64_t smallest_side) {
  if (part.rank() != 2) return fmt::format("is {}, not a matrix", part.str());
  if (std::min(part[0], part[1]) < smallest_side)
    return fmt::format("is {}, a side below {}", part.str(), smallest_side);
  return {};
}

std::vector<StateSlot> MatrixRule::state(const Shape& part) const {
  std::vector<StateSlot> slots;
  for (const auto& stage : stages_)
    for (const StateSlot& slot : stage->state(part)) slots.push_back(slot);
  for (const StateSlot& slot : finish_.state(part)) slots.push_back(slot);
  return slots;
}

double MatrixRule::flops(const Shape& part) const {
  double sum = finish_.flops(part);
  for (const auto& stage : stages_) sum += stage->flops(part);
  return sum;
}

DType MatrixRule::multiplies() const {
  for (const auto& stage : stages_)
    if (stage->multiplies() != DType::f32) return stage->multiplies();
  return DType::f32;
}

std::vector<std::vector<std::size_t>> batches_of(std::span<const Shape> parts, const BackendSizes& backend) {
  std::vector<std::vector<std::size_t>> by_shape, batches;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto same = std::find_if(by_shape.begin(), by_shape.end(),
                                   [&](const auto& found) { return parts[found.front()] == parts[i]; });
    if (same == by_shape.end())
      by_shape.push_back({i});
    else
      same->push_back(i);
  }
  for (const std::vector<std::size_t>& all : by_shape) {
    const auto most =
        static_cast<std::size_t>(std::max<std::int64_t>(1, backend.matrices_at_once(parts[all.front()])));
    const std::size_t chunks = (all.size() + most - 1) / most;
    for (std::size_t c = 0; c < chunks; ++c)
      batches.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(all.size() * c / chunks),
                           all.begin() + static_cast<std::ptrdiff_t>(all.size() * (c + 1) / chunks));
  }
  return batches;
}

namespace {

std::vector<Shape> batch_shapes(std::span<const Shape> parts,
                                std::span<const std::vector<std::size_t>> batches) {
  std::vector<Shape> shapes;
  for (const std::vector<std::size_t>& batch : batches) {
    const Shape& each = parts[batch.front()];
    shapes.push_back({static_cast<std::int64_t>(batch.size()), each.rows(), each.cols()});
  }
  return shapes;
}

}  // namespace

std::size_t MatrixRule::workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const {
  const std::vector<Shape> shapes = batch_shapes(parts, batches_of(parts, backend));
  std::size_t bytes = 0;
  for (const auto& stage : stages_) bytes += stage->workspace_bytes(shapes, backend);
  return bytes + finish_.workspace_bytes(parts, backend);
}

void MatrixRule::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  parts_ = parts.size();
  batches_ = batches_of(parts, backend);
  std::size_t most = 0;
  for (const auto& batch : batches_) most = std::max(most, batch.size());
  together_.reserve(most);
  const std::vector<Shape> shapes = batch_shapes(parts, batches_);
  for (const auto& stage : stages_) stage->prepare(backend, shapes);
  finish_.prepare(backend, parts);
}

bool MatrixRule::takes_late_scale() const {
  return finish_.plain() && std::all_of(stages_.begin(), stages_.end(),
                                        [](const auto& stage) { return stage->takes_late_scale(); });
}

std::size_t MatrixRule::numbers() const {
  std::size_t sum = Finish::kNumbers;
  for (const auto& stage : stages_) sum += stage->numbers();
  return sum;
}

void MatrixRule::numbers_at(const StepContext& context, std::span<double> numbers) const {
  for (const auto& stage : stages_) {
    stage->numbers_at(context, numbers.first(stage->numbers()));
    numbers = numbers.subspan(stage->numbers());
  }
  finish_.numbers_at(context, numbers);
}

void MatrixRule::restart() {
  for (const auto& stage : stages_) stage->restart();
  finish_.restart();
}

void MatrixRule::update(const StepContext& context, std::span<const Part> parts) {
  if (parts.size() != parts_) throw std::logic_error("MatrixRule::update: not the parts of prepare()");
  for (const std::vector<std::size_t>& batch : batches_) {
    together_.clear();
    for (const std::size_t i : batch) together_.push_back(&parts[i]);
    update(context, together_);
  }
}

void MatrixRule::update(const StepContext& context, std::span<const Part* const> parts) {
  MatrixBatch batch{parts, 0};
  StepContext own = context;  // with the numbers of one stage
  std::int64_t first = 0;
  const auto take_numbers = [&](std::size_t count) {
    if (!context.numbers) return;
    own.numbers = part_of(context.numbers, first, static_cast<std::int64_t>(count));
    first += static_cast<std::int64_t>(count);
  };
  Tensor direction;
  for (const auto& stage : stages_) {
    take_numbers(stage->numbers());
    direction = stage->apply(own, batch, direction);
    batch.first_slot += stage->state(batch.shape()).size();
  }
  if (!direction) return;
  take_numbers(Finish::kNumbers);
  const Shape& each = batch.shape();
  const double factor = settings_.factor ? settings_.factor(each)
                                         : shape_factor(settings_.shape_scale, each.rows(), each.cols());
  finish_.apply(own, parts, batch.first_slot, direction, factor);
}

}  // namespace spectrain
