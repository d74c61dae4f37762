#pragma once

#include <cstdint>
#include <string>
#include <vector>

// What `spectrain data ...` does, one function per subcommand: the command line fills the struct, the
// function does the work, prints its result on standard output and returns the exit code. Wrong requests are
// RequestError, failures Error.

namespace spectrain {

// spectrain data pack --tokenizer gpt2=<dir> [--split-on S] --out <dir> <files, directories or ->
struct DataPackRequest {
  std::string tokenizer;                  // "bytes", "gpt2=<dir>" or a tokenizer.json; required
  std::string split_on;                   // separates documents inside a file; empty: a file is one document
  std::string out;                        // directory of the shards; required
  std::int64_t shard_tokens = 100000000;  // per shard, the last one may hold fewer
  std::string prefix = "train";           // shards are <prefix>_000000.bin, ...
  double validation_fraction = 0;         // of the documents, chosen by their hash, into val_000000.bin, ...
  bool force = false;                     // replace shards of the same prefix
  int threads = 0;                        // 0: all processors this process may use
  std::vector<std::string> inputs;        // files, directories (recursively, sorted), "-" for standard input
};
int run_data_pack(const DataPackRequest& request);

// spectrain data train-tokenizer --vocab-size N --out tokenizer.json [--split-on S] <files>
struct DataTrainTokenizerRequest {
  std::int64_t vocab_size = 0;  // 256 bytes + merges + end of text; at least 257
  std::string out;              // the file to write
  std::string split_on;
  bool force = false;  // replace an existing file
  int threads = 0;
  std::vector<std::string> inputs;
};
int run_data_train_tokenizer(const DataTrainTokenizerRequest& request);

// spectrain data info <shard...>: tokens, type, documents and largest id of each shard, and their totals.
struct DataInfoRequest {
  std::vector<std::string> shards;  // files, patterns or directories
  std::string tokenizer;  // empty: the tokenizer.json beside the shard where there is one, else GPT-2's 50256
};
int run_data_info(const DataInfoRequest& request);

// spectrain data decode <shard> --from N --count M: the text of those tokens, as bytes.
struct DataDecodeRequest {
  std::string shard;
  std::int64_t from = 0;  // first token
  std::int64_t count = 256;
  std::string tokenizer;  // empty: the tokenizer.json beside the shard
};
int run_data_decode(const DataDecodeRequest& request);

}  // namespace spectrain
