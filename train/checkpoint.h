#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "optim/optimizer.h"

// A checkpoint is a directory `<directory>/step-00001000` with
//
//   model.safetensors      the master parameters by name
//   optimizer.safetensors  the optimizer's state by name
//   state.json             everything else a run needs to go on: whatever the caller puts there
//   manifest.json          size and XXH64 of the files above; written last
//
// It is written under another name, synced to the disk and renamed, so a checkpoint of that name is whole,
// whenever the process or the machine dies. One process at a time writes into a directory (RunDirectory's
// lock sees to it).

namespace spectrain {

class SafetensorsFile;

struct CheckpointContents {
  std::vector<StateTensor> model, optimizer;
  nlohmann::json state;
};

// The ranks that write one checkpoint together: all call write_checkpoint() with the tensors, or parts of
// tensors, that they own, and the layout of all. Rank 0 lays the files out, everybody fills in what is his,
// and rank 0 reads them once for their checksums and publishes. The files are those that one process writes:
// any number of ranks may read them. The directory must be the same for all ranks.
struct CheckpointRanks {
  int rank = 0;
  std::vector<StateTensor> model, optimizer;  // names, dtypes, whole shapes
  std::function<void(const char* what)> barrier;
};

// Writes the checkpoint of `step` and then removes older ones so that `keep` complete ones remain (0: all
// remain). Only complete ones count, the one just written is never removed, and nothing is removed before it
// is complete. Checkpoints of later steps (the run went back and trains a different future) are renamed to
// step-N.abandoned. Returns its path. Throws Error when it cannot be written, the disk being full included;
// what was there before is then as it was.
std::string write_checkpoint(const std::string& directory, std::int64_t step,
                             const CheckpointContents& contents, Backend& backend, int keep);
std::string write_checkpoint(const std::string& directory, std::int64_t step,
                             const CheckpointContents& contents, Backend& backend, int keep,
                             const CheckpointRanks& ranks);

// What the checks of a checkpoint look at.
enum class Verify : std::uint8_t {
  sizes,     // every file of the manifest is there with its size
  contents,  // and its checksum (reads everything once)
};

struct FoundCheckpoint {
  std::string path;
  std::int64_t step = 0;
  // One sentence for each newer checkpoint that was passed over because it is damaged.
  std::vector<std::string> notes;
  bool operator==(const FoundCheckpoint&) const = default;
};

// The newest complete checkpoint in `directory`; empty when there is none or no such directory.
// `notes`, when given, receives the sentences also when nothing is found.
std::optional<FoundCheckpoint> newest_checkpoint(const std::string& directory,
                                                 Verify verify = Verify::contents,
                                                 std::vector<std::string>* notes = nullptr);

// Complete checkpoints (sizes checked), oldest first.
std::vector<FoundCheckpoint> list_checkpoints(const std::string& directory);

class CheckpointReader {
 public:
  // Checks the manifest, all sizes and the checksum of state.json. Throws RequestError naming what is wrong.
  explicit CheckpointReader(std::string path);

  const std::string& path() const { return path_; }
  std::int64_t step() const { return step_; }
  const nlohmann::json& state() const { return state_; }

  // Fill the given tensors by name. Before anything is changed the file's checksum is compared and names,
  // dtypes and shapes are compared both ways; the first difference (a tensor of the model that the checkpoint
  // lacks, one of the checkpoint that the model lacks, another shape) is a RequestError naming it.
  void load_model(Backend& backend, std::span<const StateTensor> into) const;
  void load_optimizer(Backend& backend, std::span<const StateTensor> into) const;
  // The same where `into` are some tensors or parts of tensors of the layout.
  void load_optimizer(Backend& backend, std::span<const StateTensor> into,
                      std::span<const StateTensor> layout) const;
  // The same checks of the model's file against a layout; then the caller reads what it wants.
  void read_model(std::span<const StateTensor> layout,
                  const std::function<void(const SafetensorsFile&)>& use) const;

 private:
  SafetensorsFile checked(const char* file, std::span<const StateTensor> layout) const;

  std::string path_;
  std::int64_t step_ = 0;
  nlohmann::json files_;  // of the manifest
  nlohmann::json state_;
};

}  // namespace spectrain
