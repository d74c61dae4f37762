#pragma once

#include <cstdint>
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

struct CheckpointContents {
  std::vector<StateTensor> model, optimizer;
  nlohmann::json state;
};

// Writes the checkpoint of `step` and then removes older ones so that `keep` complete ones remain (0: all
// remain). Only complete ones count, the one just written is never removed, and nothing is removed before it
// is complete. Checkpoints of later steps (the run went back and trains a different future) are renamed to
// step-N.abandoned. Returns its path. Throws Error when it cannot be written, the disk being full included;
// what was there before is then as it was.
std::string write_checkpoint(const std::string& directory, std::int64_t step,
                             const CheckpointContents& contents, Backend& backend, int keep);

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

 private:
  void load(const char* file, Backend& backend, std::span<const StateTensor> into) const;

  std::string path_;
  std::int64_t step_ = 0;
  nlohmann::json files_;  // of the manifest
  nlohmann::json state_;
};

}  // namespace spectrain
