#include "optim/bucket_traffic.h"

#include <fmt/format.h>

#include <algorithm>

namespace spectrain {
namespace {

// Elements [first, first + count) of contiguous memory, as a vector or in the given shape.
Tensor range(const Tensor& x, std::int64_t first, const Shape& shape) {
  auto* data = static_cast<std::byte*>(x.data) + static_cast<std::size_t>(first) * size_of(x.dtype);
  return {data, x.dtype, shape};
}
Tensor range(const Tensor& x, std::int64_t first, std::int64_t count) {
  return range(x, first, Shape{count});
}

}  // namespace

BucketTraffic::BucketTraffic(Backend& backend, Parameters& parameters, Collectives& collectives,
                             const ShardPlan& plan)
    : backend_(backend),
      parameters_(parameters),
      collectives_(collectives),
      plan_(plan),
      rank_(collectives.rank()),
      bucket_of_(parameters.size()),
      missing_(plan.buckets.size(), 0),
      stale_(plan.buckets.size(), 0) {
  const std::size_t size = size_of(backend.master());
  std::int64_t own = 0, largest = 0, largest_parameter = 0;
  std::size_t largest_weights = 0;
  for (std::size_t b = 0; b < plan.buckets.size(); ++b) {
    const Bucket& bucket = plan.buckets[b];
    own_start_.push_back(own);
    own += bucket.block(rank_);
    largest = std::max(largest, bucket.elements());
    largest_weights =
        std::max(largest_weights, static_cast<std::size_t>(bucket.elements()) * size_of(bucket.weights));
    gradient_names_.push_back("the gradients of " + bucket.name);
    weight_names_.push_back("the weights of " + bucket.name);
    for (const std::size_t p : bucket.parameters) {
      bucket_of_[p] = b;
      largest_parameter = std::max(largest_parameter, parameters.info(p).shape.numel());
    }
  }
  const auto zeroed = [&](std::size_t bytes, std::string_view name) {
    bytes = std::max(bytes, std::size_t{64});
    auto buffer = backend.allocate(bytes, name);
    backend.fill(buffer->view(DType::f32, {static_cast<std::int64_t>(bytes / 4)}), 0);
    return buffer;
  };
  masters_ = zeroed(static_cast<std::size_t>(own) * size, "master weights");
  gradients_ = zeroed(static_cast<std::size_t>(own) * size, "reduced gradients");
  whole_ = zeroed(static_cast<std::size_t>(largest_parameter) * size, "one parameter");
  for (Stage& s : gradient_stages_)
    s.memory = zeroed(static_cast<std::size_t>(largest) * size, "gradients to send");
  for (Stage& s : weight_stages_) s.memory = zeroed(largest_weights, "weights to send");
}

Tensor BucketTraffic::master(const ShardPiece& own) const {
  const std::size_t b = bucket_of_[own.parameter];
  const std::int64_t first =
      own_start_[b] + own.offset - plan_.buckets[b].starts[static_cast<std::size_t>(rank_)];
  return masters_->view(backend_.master(), own.piece.shape,
                        static_cast<std::size_t>(first) * size_of(backend_.master()));
}

Tensor BucketTraffic::gradient(const ShardPiece& own) const {
  const Tensor same = master(own);
  const auto offset = static_cast<std::size_t>(static_cast<std::byte*>(same.data) -
                                               static_cast<std::byte*>(masters_->data()));
  return gradients_->view(same.dtype, same.shape, offset);
}

// ---------------------------------------------------------------------------------------------- gradients

void BucketTraffic::begin() {
  for (std::size_t b = 0; b < missing_.size(); ++b)
    missing_[b] = static_cast<std::int64_t>(plan_.buckets[b].parameters.size());
}

void BucketTraffic::gradient_done(std::size_t parameter) {
  const std::size_t b = bucket_of_[parameter];
  if (--missing_[b] == 0) send_gradients(b);
}

void BucketTraffic::send_gradients(std::size_t b) {
  const Bucket& bucket = plan_.buckets[b];
  missing_[b] = -1;
  Stage& stage = gradient_stages_[next_stage_++ % 2];
  collectives_.wait(stage.event);
  const DType master = backend_.master();
  const Tensor staged = stage.memory->view(master, {bucket.elements()});
  for (const ShardPiece& p : bucket.pieces)
    backend_.copy(range(parameters_.view(p.parameter).gradient, p.element, p.numel()),
                  range(staged, p.offset, p.numel()));
  const Tensor own = gradients_->view(master, {bucket.block(rank_)},
                                      static_cast<std::size_t>(own_start_[b]) * size_of(master));
  if (!bucket.grouped) {
    stage.event = collectives_.reduce_scatter(staged, own, gradient_names_[b]);
    return;
  }
  for (int r = 0; r < plan_.ranks; ++r)
    if (bucket.block(r) > 0)
      stage.event =
          collectives_.reduce(range(staged, bucket.starts[static_cast<std::size_t>(r)], bucket.block(r)), own,
                              r, gradient_names_[b]);
}

void BucketTraffic::finish_gradients() {
  for (std::size_t b = 0; b < missing_.size(); ++b)
    if (missing_[b] > 0) send_gradients(b);
  for (const Stage& s : gradient_stages_) collectives_.wait(s.event);
}

// ---------------------------------------------------------------------------------------------- weights

void BucketTraffic::take(std::size_t parameter, const Tensor& whole) {
  for (const ShardPiece& p : plan_.buckets[bucket_of_[parameter]].pieces)
    if (p.parameter == parameter && p.rank == rank_)
      backend_.copy(range(whole, p.element, p.numel()), master(p).reshaped({p.numel()}));
}

void BucketTraffic::send_weights() {
  finish_weights();
  to_gather_.clear();
  // The next forward pass reads the last bucket first.
  for (std::size_t b = 0; b < plan_.buckets.size(); ++b) {
    to_gather_.push_back(b);
    stale_[b] = 1;
  }
  start_gathers();
}

void BucketTraffic::start_gathers() {
  while (!to_gather_.empty() && gathers_.size() < std::size(weight_stages_)) {
    const std::size_t b = to_gather_.back();
    to_gather_.pop_back();
    const Bucket& bucket = plan_.buckets[b];
    Stage* stage = &weight_stages_[0];
    if (!gathers_.empty() && gathers_.back().stage == stage) stage = &weight_stages_[1];
    const Tensor staged = stage->memory->view(bucket.weights, {bucket.elements()});
    const std::int64_t start = bucket.starts[static_cast<std::size_t>(rank_)], count = bucket.block(rank_);
    const Tensor block = range(staged, start, count);
    if (count > 0) fill_block(b, block);
    Event event;
    if (!bucket.grouped)
      event = collectives_.all_gather(block, staged, weight_names_[b]);
    else
      for (int r = 0; r < plan_.ranks; ++r)
        if (bucket.block(r) > 0)
          event = collectives_.broadcast(
              range(staged, bucket.starts[static_cast<std::size_t>(r)], bucket.block(r)), r,
              weight_names_[b]);
    gathers_.push_back({b, stage, event});
  }
}

// This rank's part of bucket b as the others are to read it.
void BucketTraffic::fill_block(std::size_t b, const Tensor& block) {
  const Bucket& bucket = plan_.buckets[b];
  if (parameters_.rounds_stochastically() && bucket.weights == DType::bf16) {
    for (const ShardPiece& p : bucket.pieces)
      if (p.rank == rank_)
        parameters_.round(p.parameter, p.element, master(p).reshaped({p.numel()}),
                          range(block, p.offset - bucket.starts[static_cast<std::size_t>(rank_)], p.numel()));
    return;
  }
  const std::size_t size = size_of(backend_.master());
  backend_.copy(
      masters_->view(backend_.master(), block.shape, static_cast<std::size_t>(own_start_[b]) * size), block);
}

void BucketTraffic::finish_gather() {
  const Gather g = gathers_.front();
  collectives_.wait(g.event);
  const Bucket& bucket = plan_.buckets[g.bucket];
  unpack(bucket, g.stage->memory->view(bucket.weights, {bucket.elements()}));
  gathers_.pop_front();
  stale_[g.bucket] = 0;
  start_gathers();
}

void BucketTraffic::unpack(const Bucket& bucket, const Tensor& staged) {
  for (const std::size_t parameter : bucket.parameters)
    parameters_.set(parameter, assembled(bucket, parameter, staged));
}

// A parameter as it came: where it lies in one piece, without a copy.
Tensor BucketTraffic::assembled(const Bucket& bucket, std::size_t parameter, const Tensor& staged) {
  const Shape& shape = parameters_.info(parameter).shape;
  const auto of_it = [&](const ShardPiece& p) { return p.parameter == parameter; };
  const auto first = std::find_if(bucket.pieces.begin(), bucket.pieces.end(), of_it);
  bool one_piece = first->element == 0;
  std::int64_t covered = 0;
  for (const ShardPiece& p : bucket.pieces)
    if (of_it(p)) {
      one_piece = one_piece && p.offset - first->offset == p.element;
      covered += p.numel();
    }
  if (one_piece && covered == shape.numel()) return range(staged, first->offset, shape);
  const Tensor whole = whole_->view(staged.dtype, shape);
  if (covered < shape.numel())
    backend_.fill(range(whole, covered, shape.numel() - covered), 0);  // padding rows
  for (const ShardPiece& p : bucket.pieces)
    if (of_it(p)) backend_.copy(range(staged, p.offset, p.numel()), range(whole, p.element, p.numel()));
  return whole;
}

void BucketTraffic::need(std::size_t parameter) {
  while (stale_[bucket_of_[parameter]]) finish_gather();
}

bool BucketTraffic::weights_are_here() const {
  return std::none_of(stale_.begin(), stale_.end(), [](std::uint8_t stale) { return stale != 0; });
}

void BucketTraffic::finish_weights() {
  while (!gathers_.empty()) finish_gather();
}

std::vector<StateTensor> BucketTraffic::owned_values() const {
  std::vector<StateTensor> values;
  for (const ShardPiece& p : plan_.pieces_of(rank_)) {
    const ParameterInfo& info = parameters_.info(p.parameter);
    const Tensor own = master(p);
    if (p.numel() == info.shape.numel())
      values.push_back({info.name, own.reshaped(info.shape)});
    else
      values.push_back({info.name, own.reshaped({p.numel()}), info.shape, p.element});
  }
  return values;
}

}  // namespace spectrain
