#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "optim/distributed_optimizer.h"
#include "train/config.h"
#include "train/diagnostics_record.h"
#include "train/spectrum.h"
#include "train/token_deciles.h"

namespace spectrain {

// What is measured beside the loss while a run trains (diagnostics_record.h says what). It only reads
// weights, gradients and state: the run is the same to the last bit with it and without.
//
// With several ranks each measures what it updates, and sums go over all. Matrices that ranks share are put
// together on every rank; rank 0 computes their singular values. Every rank must make the same calls.
//
// Memory beside the training, where `every` asks for measurements: a copy of the weights that this rank
// updates; of the largest chosen matrix; what its singular values take (BackendSizes::factor_bytes).
class Diagnostics {
 public:
  // Throws RequestError for matrices that the model does not have. The files of data.train are read where
  // deciles are asked for (token_deciles.h).
  Diagnostics(Backend& backend, Collectives& collectives, const Parameters& parameters,
              const DistributedOptimizer& optimizer, const RunConfig& config);
  ~Diagnostics();

  // Whether the step that makes `step` of them is measured: every `every`-th, and the last of the run.
  bool due(std::int64_t step) const;
  // Right before the update, or before the passes that precede it: weights do not change there.
  void remember_weights();
  // After the update, before the next backward pass.
  DiagnosticsRecord measure();

  // Null unless losses by token frequency are asked for.
  DecileLosses* deciles() { return deciles_ ? &*deciles_ : nullptr; }
  DiagnosticsRecord decile_record() const;  // of the last validation; of all ranks

 private:
  enum Kind : std::uint8_t { kWeight, kMomentum, kUpdate };

  bool shared() const { return collectives_.ranks() > 1 && optimizer_.plan() != nullptr; }
  void take_memory();
  std::string momentum_of(const std::string& parameter) const;
  void add_over_ranks(const Tensor& x, const char* what);
  std::vector<double> sums_of_squares();  // by group: weights, gradients, updates
  std::vector<GroupMeasurement> measure_groups();
  std::vector<double> products(const std::vector<GroupMeasurement>& groups);
  const Tensor* source(std::size_t part, Kind kind, const std::string& momentum) const;
  void assemble(std::size_t matrix, Kind kind);
  std::vector<double> singular_values(const ChosenMatrix& matrix);
  SpectrumMeasurement spectrum(std::size_t matrix, Kind kind);

  Backend& backend_;
  Collectives& collectives_;
  const DistributedOptimizer& optimizer_;
  DiagnosticsSection section_;
  std::int64_t last_;  // step of the run
  std::vector<MeasuredGroup> groups_;
  std::vector<MeasuredPart> parts_;
  std::vector<ChosenMatrix> matrices_;
  std::vector<std::string> momenta_;  // by matrix: which state is its momentum; empty: none
  std::unique_ptr<Buffer> before_memory_, sums_memory_, matrix_memory_;
  std::vector<Tensor> update_;    // by part: the weights before the step, then the update
  Tensor sums_;                   // f64, by group
  std::vector<Tensor> products_;  // master, by part
  Tensor matrix_, values_;        // master, flat: as large as the largest need
  Formula difference_, product_;
  std::optional<DecileLosses> deciles_;
};

}  // namespace spectrain
