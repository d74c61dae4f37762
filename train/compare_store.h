#pragma once

#include <map>
#include <optional>
#include <string>

#include "train/compare_plan.h"
#include "train/config.h"
#include "train/directory_lock.h"

namespace spectrain {

// How a run ended that will not be started again.
struct RunOutcome {
  bool diverged = false;  // it has no final validation loss
  double loss = 0;        // of the final validation; +inf when it diverged
  double seconds = 0;     // by the clock on the wall, of its last session
  std::string message;    // what a diverged run said
  std::string data;       // data_fingerprint() of what it read
  bool operator==(const RunOutcome&) const = default;
};

// What a comparison keeps on the disk:
//
//   <root>/.lock                     held by the one process that runs it
//   <root>/configs/<id>.yaml         the effective configuration of each run
//   <root>/logs/<id>.log             what it printed
//   <root>/runs/<id>/                its run directory
//   <root>/runs/<id>/finished.json   written last, whole or not at all: the run is over
//
// An id ends with the hash of what the run trains (compare_config.h): whoever wants the same finds it by
// that.
class CompareStore {
 public:
  explicit CompareStore(std::string root);  // need not be there

  const std::string& root() const { return root_; }
  std::string runs() const { return root_ + "/runs"; }
  std::string run(const std::string& id) const { return runs() + "/" + id; }
  std::string config(const std::string& id) const { return root_ + "/configs/" + id + ".yaml"; }
  std::string log(const std::string& id) const { return root_ + "/logs/" + id + ".log"; }

  // Makes the directories; RequestError when another process runs this comparison.
  Descriptor lock();

  // The run of this configuration: that of its hash where there is one, else the name it would get,
  // "muon-lr0.02-s1-ab12cd34", with another horizon than 1 "muon-lr0.02-x0.5-s1-12ab34cd".
  std::string id_of(const PlanVariant& variant, const GridPoint& point, double horizon,
                    const RunConfig& config);

  // Empty when there is none, or what is there is not whole: no marker, no final validation, or another
  // configuration than the one that is wanted.
  std::optional<RunOutcome> outcome(const std::string& id, const RunConfig& wanted) const;
  // Whether there is something to go on with, and it is this configuration's.
  bool matches(const std::string& id, const RunConfig& wanted) const;
  // Out of the way, under a name that is free; nothing is deleted.
  void set_aside(const std::string& id) const;

  // Of a run whose process has ended well: its final validation, empty when it does not have it.
  std::optional<double> final_loss(const std::string& id, const RunConfig& config) const;
  // Writes the marker, after what it speaks for has reached the disk.
  void finish(const std::string& id, const RunOutcome& outcome) const;

 private:
  void find_runs();

  std::string root_;
  std::map<std::string, std::string> ids_;  // by hash
};

}  // namespace spectrain
