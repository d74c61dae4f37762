#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/option.h"
#include "optim/rule.h"

// How a rule's direction D becomes the new weight: the last stage of every rule, the same for all of them.
//
//   D = shape factor * direction
//   radial brake b < 1:  where <D,W> < 0 (the step would make W longer):  D -= (1 - b) <D,W> / |W|^2 W
//   floor f > 0:         where |D| < f |W|:  D *= f |W| / |D|                (both per tensor, or row by row)
//   then one of
//     W = W - decay W - lr D                  decay below; cautious: only where D W >= 0, element by element
//     hyperball, R = |W| before the first step:  W' = W - lr R D / |D|,  W = R W' / |W'|;  no decay
//
//   storage bf16, of element-wise rules: W is rounded to a bf16 number after each update, and before the
//   first; the rule's state is kept as bf16 tensors. The arithmetic stays float32 (modded-nanogpt's bf16
//   embeddings, and its scalars in records #10 to #17).
//
//   decay = lr weight_decay (decoupled), weight_decay (independent), lr^2 weight_decay (squared),
//           times 1, 1 - t/T or (1 + cos(pi t/T))/2 over the run's T steps
//
// lr is the scheduled one. Norms are Frobenius norms of the part that the rule sees: a matrix, a split of a
// fused one, or a whole vector. Sources: decoupled, Loshchilov and Hutter 2019 (1711.05101); cautious, Chen
// et al. 2025 (2510.12402); squared, modded-nanogpt; hyperball, floor and brake: modded-nanogpt track 3,
// records 8, 9 and 44, without the rescaling to first-order radius that record 44 has beside the brake.

namespace spectrain {

enum class DecayMode : std::uint8_t { decoupled, independent, squared };
enum class DecaySchedule : std::uint8_t { constant, linear, cosine };
enum class Constraint : std::uint8_t { none, hyperball };
enum class Measured : std::uint8_t { tensor, row };

struct FinishOptions {
  DecayMode decay = DecayMode::decoupled;
  DecaySchedule decay_schedule = DecaySchedule::constant;
  bool cautious = false;
  Constraint constraint = Constraint::none;
  double floor = 0;  // of |D| / |W|; 0: none
  double brake = 1;  // what is left of the outward part; 1: all
  Measured measured = Measured::tensor;
  StoredAs storage = StoredAs::f32;
  // Of matrix rules: what has a shorter side is left to the group's element-wise rule, for an orthogonal
  // factor says little about a sliver.
  std::int64_t smallest_side = 8;
  bool operator==(const FinishOptions&) const = default;
};
void describe_options(OptionVisitor& v, FinishOptions& o);
// Throws RequestError when the options do not fit each other or the decay.
void check(const FinishOptions& o, std::string_view rule, double weight_decay);
// RequestError where a rule that is not element-wise is to keep its numbers in bf16.
void check_storage_is_f32(const FinishOptions& o, std::string_view rule);

class Finish {
 public:
  Finish(const FinishOptions& options, double lr, double weight_decay)
      : options_(options), lr_(lr), weight_decay_(weight_decay) {}

  // W = (1 - decay) W - lr D and nothing else.
  bool plain() const;
  // Norms are needed, so that parts must be whole.
  bool whole() const;
  double rate(const StepContext& c) const { return lr_ * c.lr_factor; }
  double decay(const StepContext& c) const;
  bool cautious() const { return options_.cautious; }
  StoredAs storage() const { return options_.storage; }
  std::string settings() const;  // "", or ", hyperball, floor 0.35 by row"

  std::vector<StateSlot> state(const Shape& part) const;
  double flops(const Shape& part) const;
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const;
  void prepare(Backend& backend, std::span<const Shape> parts);
  // Those of a plain finish that change from step to step, which context.numbers has where it is given.
  enum : std::uint8_t { kKeep, kRate, kNumbers };
  void numbers_at(const StepContext& context, std::span<double> numbers) const;
  // direction: the part's shape, any float dtype, not written. first_slot: where state() begins in
  // part.state. Throws Error at step 0 for hyperball and a weight of zeros.
  void apply(const StepContext& context, const Part& part, std::size_t first_slot, const Tensor& direction,
             double factor);
  // The same for some parts of one shape, directions [B, out, in].
  void apply(const StepContext& context, std::span<const Part* const> parts, std::size_t first_slot,
             const Tensor& directions, double factor);
  void restart() { first_step_ = -1; }  // as in UpdateRule

 private:
  void apply_plain(const StepContext& context, std::span<const UpdatePart> parts, double factor);
  void apply_hyperball(const StepContext& context, const Part& part, const Tensor& radius,
                       const Tensor& direction);

  FinishOptions options_;
  double lr_, weight_decay_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> sums_;
  std::int64_t most_rows_ = 1;
  std::int64_t first_step_ = -1;  // of this process
  std::vector<Tensor> tensors_;   // of one call; a step allocates nothing
  std::vector<UpdatePart> together_;
  struct Formulas;
  std::shared_ptr<Formulas> formulas_;
};

}  // namespace spectrain
