#include "train/command_line_data.h"

#include <memory>

#include "train/command_data.h"
#include "train/command_line_options.h"

namespace spectrain {
namespace {

using Run = std::function<int()>;  // what the parsed command line asks for

void add_data_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "0: all cores this process may use")
      ->check(CLI::Range(0, 4096))
      ->type_name("N");
}

void add_data_pack(CLI::App& data, Run& run) {
  CLI::App* command = data.add_subcommand("pack", "Make token shards from text");
  const auto request = std::make_shared<DataPackRequest>();
  command->add_option("inputs", request->inputs, "Text files, directories, or - for standard input")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--tokenizer", request->tokenizer,
                   "bytes, gpt2=DIR (vocab.bpe, encoder.json) or a tokenizer file")
      ->type_name("NAME")
      ->required();
  command->add_option("--out", request->out, "Directory of the shards")->type_name("DIR")->required();
  command->add_option("--split-on", request->split_on, "What separates documents inside a file")
      ->type_name("TEXT");
  add_count(*command, "--shard-tokens", request->shard_tokens, "Tokens per shard");
  command->add_option("--prefix", request->prefix, "Shards are <prefix>_000000.bin, ...")
      ->type_name("NAME")
      ->capture_default_str();
  command
      ->add_option("--validation-fraction", request->validation_fraction,
                   "Share of the documents, chosen by their hash, for val_000000.bin, ...")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("SHARE");
  command->add_flag("--force", request->force, "Replace shards of the same prefix");
  add_data_threads(*command, request->threads);
  command->footer(
      "Examples, with the text that scripts/make_corpus collects:\n"
      "  spectrain data pack --tokenizer bytes --out shards corpus/train.txt\n"
      "  spectrain data pack --tokenizer corpus/tokenizer.json --split-on '<|endoftext|>' "
      "--validation-fraction 0.01 --out shards corpus/train.txt");
  command->callback([=, &run] { run = [=] { return run_data_pack(*request); }; });
}

void add_data_train_tokenizer(CLI::App& data, Run& run) {
  CLI::App* command = data.add_subcommand("train-tokenizer", "Train a byte-level BPE tokenizer on text");
  const auto request = std::make_shared<DataTrainTokenizerRequest>();
  command->add_option("inputs", request->inputs, "Text files, directories, or - for standard input")
      ->type_name("FILE")
      ->required();
  add_count(*command, "--vocab-size", request->vocab_size, "Bytes, merges and the end of text; at least 257")
      ->default_str("")
      ->required();
  command->add_option("--out", request->out, "The tokenizer file to write")->type_name("FILE")->required();
  command->add_option("--split-on", request->split_on, "What separates documents inside a file")
      ->type_name("TEXT");
  command->add_flag("--force", request->force, "Replace the tokenizer file if it exists");
  add_data_threads(*command, request->threads);
  command->footer(
      "Example, with the text that scripts/make_corpus collects:\n"
      "  spectrain data train-tokenizer --vocab-size 4096 --split-on '<|endoftext|>' --out tokenizer.json "
      "corpus/train.txt");
  command->callback([=, &run] { run = [=] { return run_data_train_tokenizer(*request); }; });
}

void add_data_readers(CLI::App& data, Run& run) {
  CLI::App* info = data.add_subcommand("info", "Tokens, documents and largest id of shards");
  const auto shards = std::make_shared<DataInfoRequest>();
  info->add_option("shards", shards->shards, "Files, patterns or directories")->type_name("FILE")->required();
  info->add_option("--tokenizer", shards->tokenizer, "Without it the tokenizer.json beside the shards")
      ->type_name("NAME");
  info->footer("Example:\n  spectrain data info corpus");
  info->callback([=, &run] { run = [=] { return run_data_info(*shards); }; });

  CLI::App* decode = data.add_subcommand("decode", "The text of tokens of a shard");
  const auto request = std::make_shared<DataDecodeRequest>();
  decode->add_option("shard", request->shard, "A token shard")->type_name("FILE")->required();
  decode->add_option("--from", request->from, "First token")
      ->check(number(true))
      ->type_name("N")
      ->capture_default_str();
  add_count(*decode, "--count", request->count, "How many tokens");
  decode->add_option("--tokenizer", request->tokenizer, "Without it the tokenizer.json beside the shard")
      ->type_name("NAME");
  decode->footer("Example:\n  spectrain data decode corpus/validation_000000.bin --from 1000 --count 100");
  decode->callback([=, &run] { run = [=] { return run_data_decode(*request); }; });
}

}  // namespace

void add_data(CLI::App& app, Run& run) {
  CLI::App* data = app.add_subcommand("data", "Make and read token shards and tokenizers");
  data->require_subcommand(1);
  data->footer("Each of them has its own --help.");
  add_data_pack(*data, run);
  add_data_train_tokenizer(*data, run);
  add_data_readers(*data, run);
}

}  // namespace spectrain
