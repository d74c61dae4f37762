#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "kernels/collectives.h"
#include "model/program.h"
#include "optim/optimizer.h"
#include "optim/shard_plan.h"

// The memory and the messages of a ShardPlan on one rank.
//
// Gradients lie where the backward pass writes them, one parameter after the other. When a bucket's last one
// is done its pieces are copied into a staging buffer in the order of the plan (a fused parameter's matrices
// may have different owners, and a reduce-scatter needs one block per rank) and the sum of this rank's block
// arrives in `gradients`. New weights go the other way: this rank's block, in the dtype in which weights
// travel, into a staging buffer that the all-gather completes; what came is handed to Parameters when a
// program needs it. Two staging buffers each way: one is filled while the other is on its way.

namespace spectrain {

class BucketTraffic {
 public:
  BucketTraffic(Backend& backend, Parameters& parameters, Collectives& collectives, const ShardPlan& plan);

  Tensor master(const ShardPiece& own) const;
  Tensor gradient(const ShardPiece& own) const;

  // ---- gradients of one step
  void begin();
  void gradient_done(std::size_t parameter);
  void finish_gradients();  // buckets of parameters that no operation wrote to included; waits

  // ---- weights
  void take(std::size_t parameter, const Tensor& whole);  // this rank's pieces of new master values
  void send_weights();               // after the update; returns with messages on their way
  void need(std::size_t parameter);  // its weights are those of the last step
  bool weights_are_here() const;     // of all parameters
  void finish_weights();
  std::vector<StateTensor> owned_values() const;

 private:
  struct Stage {
    std::unique_ptr<Buffer> memory;
    Event event;
  };
  struct Gather {
    std::size_t bucket = 0;
    Stage* stage = nullptr;
    Event event;
  };

  void send_gradients(std::size_t bucket);
  void fill_block(std::size_t bucket, const Tensor& block);
  void start_gathers();  // as many as there are free staging buffers
  void finish_gather();  // the oldest
  void unpack(const Bucket& bucket, const Tensor& staged);
  Tensor assembled(const Bucket& bucket, std::size_t parameter, const Tensor& staged);

  Backend& backend_;
  Parameters& parameters_;
  Collectives& collectives_;
  const ShardPlan& plan_;
  int rank_;
  std::vector<std::size_t> bucket_of_;           // by parameter
  std::vector<std::int64_t> own_start_;          // by bucket: of this rank's block, in the buffers below
  std::unique_ptr<Buffer> masters_, gradients_;  // of this rank's blocks, master dtype
  std::vector<std::string> gradient_names_, weight_names_;  // of the messages, by bucket
  Stage gradient_stages_[2], weight_stages_[2];
  std::size_t next_stage_ = 0;
  std::vector<std::int64_t> missing_;   // by bucket: gradients that are not done yet; -1: on its way
  std::unique_ptr<Buffer> whole_;       // a parameter put together from its pieces
  std::vector<std::size_t> to_gather_;  // buckets, the next one last
  std::deque<Gather> gathers_;
  std::vector<std::uint8_t> stale_;  // by bucket: its weights have not come yet
};

}  // namespace spectrain
