#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "kernels/error.h"
#include "train/commands.h"
#include "train/sampler.h"
#include "train/saved_run.h"
#include "train/session.h"

namespace spectrain {
namespace {

// What the run was tokenised with: data.tokenizer, or the tokenizer.json that lies beside its shards.
std::unique_ptr<Tokenizer> tokenizer_of(const RunConfig& config) {
  if (!config.data.tokenizer.empty()) return load_tokenizer(config.data.tokenizer);
  for (const auto* files : {&config.data.train, &config.data.validation})
    for (const std::string& pattern : *files) {
      const std::filesystem::path given(pattern);
      for (const auto& directory : {given, given.parent_path()})
        if (std::filesystem::exists(directory / "tokenizer.json"))
          return load_tokenizer((directory / "tokenizer.json").string());
    }
  throw RequestError(
      "there is no tokenizer.json beside the run's token shards; say which tokenizer made them with "
      "--set data.tokenizer=gpt2=<directory with vocab.bpe and encoder.json>");
}

void print_bytes(std::string_view bytes) {
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

int run_sample(const SampleRequest& request) {
  const SavedRun saved = find_saved_run(request.checkpoint, request.overrides);
  const RunConfig& config = saved.config;
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(config);
  if (tokenizer->vocab() > config.model.vocab)
    throw RequestError(
        fmt::format("the tokenizer has {} ids, the model only {}: it was trained with another one",
                    tokenizer->vocab(), config.model.vocab));
  const std::unique_ptr<Backend> backend = make_backend(config.compute);
  Tape tape;
  transformer(tape, config.model, 1, 1);
  Parameters parameters(tape, *backend, config.compute.precision, false);
  load_parameters(saved, parameters);

  std::vector<std::int32_t> tokens{tokenizer->end_of_text()};  // a document begins here, as in training
  tokenizer->encode(request.prompt, tokens);
  print_bytes(request.prompt);
  Sampler sampler(config.model, parameters, config.compute.precision);
  sampler.extend(tokens, request.tokens, {request.temperature, request.top_k, request.seed},
                 tokenizer->end_of_text(), [&](std::int32_t id) { print_bytes(tokenizer->bytes_of(id)); });
  print_bytes("\n");
  return 0;
}

}  // namespace spectrain
