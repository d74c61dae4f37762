#pragma once

#include <cstdint>
#include <span>
#include <vector>

// Which keys a query of causal attention sees: a window, its own document, or both. Attention takes the
// answer as the position of the first key that each query sees (kernels/backend.h), made here from a batch's
// tokens.

namespace spectrain {

struct VisibilityConfig {
  bool documents = false;               // not beyond the start of the query's own document
  std::int64_t document_token = 50256;  // the token that every document starts with (GPT-2's end of text)
  // Tokens seen, the query's own counted: [w] all the time, [a, b] from a at the beginning of training to b
  // at its end, linearly (speedrun #13 onward). Empty: all that come before.
  std::vector<std::int64_t> window;
  std::int64_t window_multiple = 1;  // the window is rounded to a multiple of this, at least one
  bool window_rounds_up = false;     // up instead of down
  // Granularity: a query of block i = floor(t / window_block) sees the blocks above i - window /
  // window_block, causally; 1: exactly so many tokens.
  std::int64_t window_block = 1;
  // These layers see half the window: in whole blocks, rounded down, at least one (speedrun #20).
  std::vector<std::int64_t> short_layers;

  bool masks() const { return documents || !window.empty(); }
  bool operator==(const VisibilityConfig&) const = default;
};

// The window at `progress` (0 at the first step, 1 after the last), of the layers not in short_layers; 0:
// none.
std::int64_t window_at(const VisibilityConfig& c, double progress);
// What short_layers make of it.
std::int64_t short_window(const VisibilityConfig& c, std::int64_t window);

// first[i] of the tokens [sequences, context]: max(start of the window, start of the document), as a position
// in the sequence.
void first_keys(const VisibilityConfig& c, std::int64_t window, std::span<const std::int32_t> tokens,
                std::int64_t context, std::span<std::int32_t> first);

// Keys that a query sees on average over a sequence, without documents: what attention costs.
double mean_keys(const VisibilityConfig& c, std::int64_t window, std::int64_t context);

}  // namespace spectrain
