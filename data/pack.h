#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spectrain {

struct PackOptions {
  std::string tokenizer;                  // as load_tokenizer takes it
  std::string split_on;                   // separates documents in a file (documents.h); empty: a file is one
  std::string out;                        // directory, made where missing
  std::int64_t shard_tokens = 100000000;  // each shard but the last holds exactly so many
  std::string prefix = "train";           // <prefix>_000000.bin, <prefix>_000001.bin, ...
  double validation_fraction = 0;   // [0, 1): documents whose hash falls below it go to val_000000.bin, ...
  bool force = false;               // replace shards of these prefixes
  int threads = 0;                  // 0: all this process may use
  std::vector<std::string> inputs;  // files, directories, "-"
};

struct PackedSet {
  std::int64_t documents = 0, tokens = 0;
  std::vector<std::string> shards;  // paths, in order
};

struct PackResult {
  PackedSet main, validation;
  std::int64_t bytes = 0;  // of text
  std::int64_t vocab = 0;
  std::string tokenizer;  // its description
};

// Tokenizes documents into shards: each document is the end-of-text id and then the ids of its text; shards
// are cut at shard_tokens whatever the documents. Leaves tokenizer.json (and what it names) beside them. The
// result does not depend on the number of threads. A document's side (training or validation) is a hash of
// its first 64 KiB, so it does not change when others are added, and copies of a document never stand on both
// sides. Everything is written in a directory aside and renamed at the end: after an exception `out` is as it
// was. Throws RequestError for wrong options, missing inputs, inputs without text, an `out` that already
// holds shards of these prefixes or another tokenizer (unless force); Error when reading or writing fails.
PackResult pack_documents(const PackOptions& options);

}  // namespace spectrain
