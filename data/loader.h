#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace spectrain {

enum class DataOrder : std::uint8_t {
  sequential,  // windows in the order of the files (the speedrun's order)
  shuffled,    // each epoch a fresh permutation of all windows, from (seed, epoch) alone
};

// Where the sequences of a step lie in the shards. With T = sequences * context tokens per step and W =
// layout_ranks, batch k of the run (below) is, by `layout`:
//
//   stream     every shard of n tokens holds floor((n - 1) / context) windows of context + 1 consecutive
//              tokens (the last is only a target), numbered through the shards in order. Sequence i is
//              window number k * sequences + i of the endless stream of epochs.
//   shards     (records #18 to #25 and track 3 of modded-nanogpt) a step is T tokens of one shard, without
//              gaps: sequence i begins at pos + i * context, and pos moves on by T. A shard is left where
//              pos + T + 1 >= n, at pos 0 too: one of fewer than T + 2 tokens is passed over.
//   skewed     (records #2 to #17) as shards, but each of W ranks walks by itself: rank r has the sequences
//              r * sequences / W and the following, and leaves a shard where pos + r * T / W + T + 1 >= n,
//              tested after each of its batches. So high ranks leave a shard earlier and drift apart. The
//              first batch of a shard is not tested; shards of fewer than T + 1 tokens are passed over.
//   documents  (record #26) the slice of each rank begins with a document, that is with document_token: the
//              first one at or behind the place that is T / W tokens behind the start of the slice before,
//              of rank 0 that of the last rank one step earlier. With document_length > 0 (record #29) a
//              rank takes whole documents, of each at most its first document_length tokens, until it has
//              T / W + 1 tokens; the last is cut to fit, what is cut off is not read, and the next rank
//              begins with the next document. A step lies within one shard: the rest of a shard that does
//              not hold a whole one is passed over, as is what stands before its first document.
//
// Within a slice sequences follow each other at distance context, and targets are the tokens one further:
// where documents were cut, the target of the last token of one is the first of the next. After the last
// shard comes the first. Where the records do not say what happens (shards too short, the end of the last
// shard) this is ours.
enum class DataLayout : std::uint8_t { stream, shards, skewed, documents };

// Which sequences a run sees: a function of data, seed and step only, whatever the ranks and the micro-batch.
struct LoaderConfig {
  std::vector<std::string> files;  // shards, in order (glob patterns already expanded, see expand_shards)
  std::int64_t context = 1024;
  std::int64_t sequences = 1;  // per step, over all ranks and micro-batches
  std::uint64_t seed = 0;
  DataOrder order = DataOrder::sequential;  // of the windows of `stream`
  std::int64_t vocab = 0;                   // > 0: a token id >= vocab is an Error naming file and offset
  DataLayout layout = DataLayout::stream;
  std::int64_t layout_ranks = 8;        // W of skewed and documents, whatever runs it; divides `sequences`
  std::int64_t document_token = 50256;  // documents: what each begins with
  std::int64_t document_length = 0;     // documents: most tokens of one; 0: they are not cut
  bool replay_first_batch = false;      // step s > 0 sees batch s - 1, and step 0 batch 0 (records #4 to #11)
};

// Expands "dir/*.bin", a directory, or a plain file into sorted shard paths; throws RequestError naming the
// pattern when nothing matches.
std::vector<std::string> expand_shards(const std::vector<std::string>& patterns);

class TokenLoader {
 public:
  explicit TokenLoader(LoaderConfig config);  // maps and checks the shards; throws RequestError
  ~TokenLoader();

  std::int64_t tokens() const;   // in all shards
  std::int64_t windows() const;  // sequences per epoch; of `documents`, unread, the most there can be
  std::int64_t files() const;

  // Sequences [first, first + count) of step `step`: tokens and targets, each count * context. Thread-safe.
  void read(std::int64_t step, std::int64_t first, std::int64_t count, std::span<std::int32_t> tokens,
            std::span<std::int32_t> targets) const;
  // Starts reading that range in the background; the next read() of the same range takes it from there.
  void prefetch(std::int64_t step, std::int64_t first, std::int64_t count);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain
