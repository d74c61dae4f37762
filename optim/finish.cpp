#include "optim/finish.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/error.h"

namespace spectrain {
namespace {

constexpr Word<DecayMode> kModes[] = {{"decoupled", DecayMode::decoupled},
                                      {"independent", DecayMode::independent},
                                      {"squared", DecayMode::squared}};
constexpr Word<DecaySchedule> kSchedules[] = {{"constant", DecaySchedule::constant},
                                              {"linear", DecaySchedule::linear},
                                              {"cosine", DecaySchedule::cosine}};
constexpr Word<Constraint> kConstraints[] = {{"none", Constraint::none},
                                             {"hyperball", Constraint::hyperball}};
constexpr Word<StoredAs> kStorages[] = {{"f32", StoredAs::f32}, {"bf16", StoredAs::bf16}};
constexpr Word<Measured> kMeasured[] = {{"tensor", Measured::tensor}, {"row", Measured::row}};

}  // namespace

void describe_options(OptionVisitor& v, FinishOptions& o) {
  v.section("decay", "how weight_decay acts", [&](OptionVisitor& inside) {
    inside.field(
        "mode", choice(o.decay, kModes), {},
        "w -= d w with d = lr weight_decay (decoupled), weight_decay (independent), lr^2 weight_decay "
        "(squared)");
    inside.field("cautious", &o.cautious, {}, "only where the update makes the number smaller too");
    inside.field("schedule", choice(o.decay_schedule, kSchedules), {},
                 "a further factor that falls from 1 to 0 over the run, or stays 1");
  });
  v.field("constraint", choice(o.constraint, kConstraints), {},
          "hyperball: every tensor keeps its first norm R, W -= lr R D/|D|, rescaled to R");
  v.section("update_floor", "short updates are lengthened", [&](OptionVisitor& inside) {
    inside.field("ratio", &o.floor, at_least(0), "least |update| / |weight| before the lr; 0: none");
    inside.field("over", choice(o.measured, kMeasured), {}, "what the norms are of; the brake's too");
  });
  v.field("smallest_side", &o.smallest_side, within(1, 1048576),
          "matrix rules leave matrices with a shorter side to the element-wise rule");
  v.field("radial_brake", &o.brake, within(0, 1), "what is left of an update's part that makes W longer");
  v.field("storage", choice(o.storage, kStorages), {},
          "bf16: weights are rounded to bf16 after each update, and the rule's state is bf16 (element-wise "
          "rules)");
}

void check_storage_is_f32(const FinishOptions& o, std::string_view rule) {
  if (o.storage == StoredAs::bf16)
    throw RequestError(
        fmt::format("{}: storage bf16 is for element-wise rules, such as adamw; leave it out", rule));
}

void check(const FinishOptions& o, std::string_view rule, double weight_decay) {
  if (o.storage == StoredAs::bf16 && (o.constraint != Constraint::none || o.floor > 0 || o.brake < 1))
    throw RequestError(
        fmt::format("{}: storage bf16 rounds every weight by itself and keeps no norm; leave constraint, "
                    "update_floor and radial_brake out",
                    rule));
  if (o.constraint != Constraint::hyperball) return;
  if (weight_decay > 0)
    throw RequestError(
        fmt::format("{}: weight_decay is {}, but constraint hyperball holds every norm; set it to 0", rule,
                    weight_decay));
  if (o.floor > 0 || o.brake < 1)
    throw RequestError(
        fmt::format("{}: constraint hyperball fixes the length of updates and weights; leave update_floor "
                    "and radial_brake "
                    "out",
                    rule));
}

struct Finish::Formulas {
  enum { kWeight, kDirection, kWeights, kDirections, kProduct };  // the last three: sums of products
  Formula weights, directions, products, update, step, rescale, radius;

  Formulas(const FinishOptions& o, Extent extent) {
    weights.sum_of(square(weights.tensor(0)));
    directions.sum_of(square(directions.tensor(0)));
    products.sum_of(products.tensor(0) * products.tensor(1));
    make_update(o, extent);

    // hyperball
    const Term r = step.tensor(3, Extent::one), dd = step.tensor(2, Extent::one);
    step.assign(kWeight, step.tensor(kWeight) -
                             step.number(0) * r *
                                 choose(above(dd, 0), step.tensor(kDirection) / sqrt(dd), step.constant(0)));
    const Term nn = rescale.tensor(1, Extent::one);
    rescale.assign(0, rescale.tensor(0) * choose(above(nn, 0), rescale.tensor(2, Extent::one) / sqrt(nn),
                                                 rescale.constant(1)));
    radius.assign(0, choose(above(radius.tensor(0), 0), radius.tensor(0), sqrt(radius.tensor(1))));
  }

  // numbers: lr, decay, factor, brake, floor
  void make_update(const FinishOptions& o, Extent extent) {
    const Term w = update.tensor(kWeight), lr = update.number(0), decay = update.number(1),
               factor = update.number(2);
    Term d = factor * update.tensor(kDirection);
    if (o.floor > 0 || o.brake < 1) {
      const Term ww = update.tensor(kWeights, extent), dd = update.tensor(kDirections, extent),
                 dw = update.tensor(kProduct, extent), brake = update.number(3), floor = update.number(4);
      const Term outward = above(0.0 - dw, 0) * above(ww, 0), nothing = update.constant(0);
      d = d - choose(outward, (1 - brake) * factor * dw / ww, nothing) * w;
      // The brake takes a part off that is parallel to W, so that the squares of what is left add up.
      const Term left =
          square(factor) * (dd - choose(outward, (1 - square(brake)) * square(dw) / ww, nothing));
      d = d * choose(above(left, 0), max(floor * sqrt(ww) / sqrt(left), 1), update.constant(1));
    }
    const Term shrinking = o.cautious ? decay * w * (1 - above(0.0 - d * w, 0)) : decay * w;
    update.assign(kWeight, w - (shrinking + lr * d));
  }
};

bool Finish::plain() const {
  return options_.constraint == Constraint::none && !options_.cautious && options_.floor == 0 &&
         options_.brake == 1;
}

bool Finish::whole() const {
  return options_.constraint != Constraint::none || options_.floor > 0 || options_.brake < 1;
}

double Finish::decay(const StepContext& c) const {
  const double lr = rate(c);
  double decay = weight_decay_;
  if (options_.decay == DecayMode::decoupled) decay *= lr;
  if (options_.decay == DecayMode::squared) decay *= lr * lr;
  if (options_.decay_schedule == DecaySchedule::linear) decay *= 1 - c.progress();
  if (options_.decay_schedule == DecaySchedule::cosine)
    decay *= 0.5 * (1 + std::cos(std::numbers::pi * c.progress()));
  return decay;
}

std::string Finish::settings() const {
  std::string s;
  if (weight_decay_ > 0 && options_.decay != DecayMode::decoupled)
    s += fmt::format(", {} decay", word_of(kModes, options_.decay));
  if (weight_decay_ > 0 && options_.decay_schedule != DecaySchedule::constant)
    s += fmt::format(", decay to 0 ({})", word_of(kSchedules, options_.decay_schedule));
  if (options_.cautious) s += ", cautious decay";
  if (options_.storage == StoredAs::bf16) s += ", bf16 storage";
  if (options_.constraint == Constraint::hyperball) s += ", hyperball";
  const std::string_view over = options_.measured == Measured::row ? " by row" : "";
  if (options_.floor > 0) s += fmt::format(", update floor {}{}", options_.floor, over);
  if (options_.brake < 1) s += fmt::format(", radial brake {}{}", options_.brake, over);
  return s;
}

std::vector<StateSlot> Finish::state(const Shape&) const {
  if (options_.constraint == Constraint::hyperball) return {{"radius", Shape{1}}};
  return {};
}

double Finish::flops(const Shape& part) const {
  return (whole() ? 10.0 : 3.0) * static_cast<double>(part.numel());
}

namespace {

std::int64_t most_rows(std::span<const Shape> parts) {
  std::int64_t most = 1;
  for (const Shape& s : parts) most = std::max(most, s.rows());
  return most;
}

std::size_t slot_bytes(std::int64_t numbers, DType master) {
  return (static_cast<std::size_t>(numbers) * size_of(master) + 63) / 64 * 64;
}

}  // namespace

std::size_t Finish::workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const {
  return whole() ? 3 * slot_bytes(most_rows(parts), backend.master()) : 0;
}

void Finish::prepare(Backend& backend, std::span<const Shape> parts) {
  check(options_, "this rule", weight_decay_);
  backend_ = &backend;
  most_rows_ = most_rows(parts);
  together_.reserve(parts.size());
  if (plain()) return;
  formulas_ =
      std::make_shared<Formulas>(options_, options_.measured == Measured::row ? Extent::rows : Extent::one);
  if (whole()) sums_ = backend.allocate(workspace_bytes(parts, backend), "norms of updates");
}

void Finish::apply(const StepContext& context, const Part& part, std::size_t first_slot,
                   const Tensor& direction, double factor) {
  if (plain()) {
    const UpdatePart one[] = {{part.weight, direction}};
    apply_plain(context, one, factor);
    return;
  }
  if (options_.constraint == Constraint::hyperball) {
    apply_hyperball(context, part, part.state[first_slot], direction);
    return;
  }
  const Extent extent = options_.measured == Measured::row ? Extent::rows : Extent::one;
  const std::int64_t numbers = extent == Extent::rows ? part.weight.rows() : 1;
  const DType master = backend_->master();
  std::vector<Tensor>& tensors = tensors_;
  tensors.assign({part.weight, direction});
  if (whole()) {
    for (std::int64_t i = 0; i < 3; ++i)
      tensors.push_back(
          sums_->view(master, {numbers}, static_cast<std::size_t>(i) * slot_bytes(most_rows_, master)));
    backend_->reduce(formulas_->weights, {}, {part.weight}, extent, tensors[2]);
    backend_->reduce(formulas_->directions, {}, {direction}, extent, tensors[3]);
    backend_->reduce(formulas_->products, {}, {part.weight, direction}, extent, tensors[4]);
  }
  const double values[] = {rate(context), decay(context), factor, options_.brake, options_.floor};
  backend_->evaluate(formulas_->update, std::span(values, whole() ? 5 : 3), tensors);
}

void Finish::apply(const StepContext& context, std::span<const Part* const> parts, std::size_t first_slot,
                   const Tensor& directions, double factor) {
  together_.clear();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& part = *parts[i];
    const Tensor direction = directions.matrix(static_cast<std::int64_t>(i)).reshaped(part.weight.shape);
    if (plain())
      together_.push_back({part.weight, direction});
    else
      apply(context, part, first_slot, direction, factor);
  }
  if (plain()) apply_plain(context, together_, factor);
}

void Finish::numbers_at(const StepContext& context, std::span<double> numbers) const {
  numbers[kKeep] = 1 - decay(context);
  numbers[kRate] = rate(context);
}

void Finish::apply_plain(const StepContext& context, std::span<const UpdatePart> parts, double factor) {
  double numbers[kNumbers];
  numbers_at(context, numbers);
  backend_->apply_update(context.number(kKeep, numbers[kKeep]), context.number(kRate, numbers[kRate], factor),
                         parts, context.late_scale);
}

void Finish::apply_hyperball(const StepContext& context, const Part& part, const Tensor& radius,
                             const Tensor& direction) {
  const DType master = backend_->master();
  const Tensor sum = sums_->view(master, {1});
  if (first_step_ < 0) first_step_ = context.step;
  if (context.step == first_step_) {
    backend_->reduce(formulas_->weights, {}, {part.weight}, Extent::one, sum);
    if (backend_->sum(sum) == 0)
      throw Error(fmt::format(
          "constraint hyperball: a weight of {} begins as zeros and could never leave them; give it another "
          "initialisation (model.zero_init_projections: false)",
          part.weight.shape.str()));
    backend_->evaluate(formulas_->radius, {}, {radius, sum});
  }
  backend_->reduce(formulas_->directions, {}, {direction}, Extent::one, sum);
  backend_->evaluate(formulas_->step, {rate(context)}, {part.weight, direction, sum, radius});
  backend_->reduce(formulas_->weights, {}, {part.weight}, Extent::one, sum);
  backend_->evaluate(formulas_->rescale, {}, {part.weight, sum, radius});
}

}  // namespace spectrain
