#pragma once

#include <string>

#include "train/config.h"

namespace spectrain {

// What `spectrain plan --ranks N` says: who owns what, what is sent, and a prediction for 1 to 1024 GPUs.

// Achieved figures the prediction is made from. The defaults are what a well-fed H100 reaches in practice;
// give your own after measuring one GPU (`spectrain bench`).
struct Fabric {
  double tflops = 400;     // matrix products of a GPU, TFLOP/s
  double memory = 2500;    // GB/s of a GPU's memory
  double node_link = 300;  // GB/s out of a GPU to others of its host
  double link = 45;        // GB/s out of a GPU to other hosts
  int gpus_per_node = 8;
  double latency = 20e-6;  // seconds, of each collective operation, and
  double hop = 1e-6;       // of each rank that takes part
};

struct StepTime {
  int ranks = 1;
  double compute = 0, update = 0, gradients = 0, weights = 0;  // seconds; the last two before they are hidden
  double exposed = 0;  // what computation does not hide of gradients and weights
  double step() const { return compute + update + exposed; }
};
// Forward and backward pass take compute/3 and 2 compute/3 of tokens/ranks tokens. Gradients travel during
// the backward pass, except the last bucket, which is complete only at its end; weights during the next
// forward pass, except the first bucket it needs.
StepTime predict_step(const RunConfig& config, const Fabric& fabric, int ranks);

std::string ranks_report(const RunConfig& config, int ranks, const Fabric& fabric);
std::string ranks_json(const RunConfig& config, int ranks);  // {"ranks", "bytes_sent_per_step", ...}

}  // namespace spectrain
