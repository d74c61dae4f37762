#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The names and renames of a checkpoint directory, apart from what checkpoints hold. Nothing here leaves a
// directory named step-N that is only partly there: directories come and go by one rename.

namespace spectrain {

inline constexpr std::string_view kWriting = ".writing-", kRemoving = ".removing-";

struct StepDirectory {
  std::string path;
  std::int64_t step = 0;
};

std::string step_name(std::int64_t step);  // "step-00001000"; more digits where the step has more
// Directories named step-<digits>, by step; none when `directory` does not exist.
std::vector<StepDirectory> step_directories(const std::string& directory);

void make_directory(const std::string& path);         // with its parents; no error when it is there
void remove_leftovers(const std::string& directory);  // of writes and removals that were killed
// Renames `writing` to `path`; a checkpoint already there is exchanged in one step, then removed. Synced.
void publish(const std::string& writing, const std::string& path);
void remove_step_directory(const std::string& path);
void set_aside(const std::string& path);  // to <path>.abandoned, or .abandoned-2 ...

}  // namespace spectrain
