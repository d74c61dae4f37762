#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace spectrain {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Outcome {
  int code = -1;
  std::string text;  // standard output and standard error
};

// The real program, as a user starts it.
Outcome spectrain(const std::string& arguments) {
  Outcome outcome;
  const std::string command =
      "cd '" SPECTRAIN_SOURCE_DIR "' && '" SPECTRAIN_BINARY_DIR "/spectrain' 2>&1 " + arguments;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) outcome.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

const std::string kPreset = "'" SPECTRAIN_SOURCE_DIR "/configs/gpt2-124m.yaml'";

TEST(CommandLine, HelpNamesEverySubcommandAndEachHasItsOwn) {
  const Outcome help = spectrain("--help");
  EXPECT_EQ(help.code, 0);
  for (const std::string name : {"train", "eval", "sample", "data", "plan", "bench", "plot"}) {
    EXPECT_THAT(help.text, HasSubstr("\n  " + name + " "));
    const Outcome own = spectrain(name + " --help");
    EXPECT_EQ(own.code, 0) << name;
    EXPECT_THAT(own.text, HasSubstr("Options:")) << name;
  }
  EXPECT_THAT(spectrain("train --help").text, HasSubstr("--set KEY=VALUE"));
  EXPECT_THAT(spectrain("data pack --help").text, HasSubstr("--tokenizer"));
}

TEST(CommandLine, Version) {
  const Outcome version = spectrain("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.text, StartsWith("spectrain "));
}

TEST(CommandLine, AWrongRequestIsOneSentenceAndTwo) {
  const auto refused = [](const std::string& arguments, const std::string& part) {
    const Outcome outcome = spectrain(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments << "\n" << outcome.text;
    EXPECT_THAT(outcome.text, StartsWith("spectrain: ")) << arguments;
    EXPECT_EQ(outcome.text.find('\n'), outcome.text.size() - 1) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr(part)) << arguments;
  };
  refused("trian x", "unknown command \"trian\"; did you mean \"train\"?");
  refused("data pak", "did you mean \"pack\"?");
  refused("train", "see 'spectrain train --help'");
  refused("train x.yaml --nonsense", "--nonsense");
  refused("plan x.yaml", "x.yaml: no such configuration file");
  refused("plan gpt2-125m", "did you mean \"gpt2-124m\"?");
  refused("plan", "plan needs a configuration");
  refused("eval", "eval needs a configuration or --checkpoint");
  refused("sample --checkpoint x --tokens -3", "--tokens");
  refused("plan " + kPreset + " --device tpu", "--device");
  refused(
      "plan " + kPreset + " --set optimizer.0.learning_rate=1",
      "--set optimizer.0.learning_rate=1: unknown key \"optimizer.0.learning_rate\"; did you mean \"lr\"?");
  refused("plan " + kPreset + " --set model.layers=0", "it must be in [1, 65536]");
}

TEST(CommandLine, OutputThatCannotBeWrittenIsAFailure) {
  const Outcome outcome = spectrain("plan --keys > /dev/full");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text, HasSubstr("standard output cannot be written"));
}

TEST(CommandLine, NothingAskedShowsHelpAndIsWrong) {
  const Outcome outcome = spectrain("");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, HasSubstr("Subcommands:"));
}

TEST(CommandLine, PlanPrintsDerivedNumbersTablesAndDefaults) {
  const Outcome plan = spectrain("plan " + kPreset + " --device cpu");
  ASSERT_EQ(plan.code, 0) << plan.text;
  for (const char* part :
       {"124,439,808", "sequences per step", "accumulation", "Parameter groups", "optimizer state",
        "activations", "total", "Effective configuration", "log_every: 1", "# "})
    EXPECT_THAT(plan.text, HasSubstr(part));
  EXPECT_THAT(
      spectrain("plan " + kPreset + " --set batch.micro_batch=2 --set train.steps=5 --threads 1").text,
      HasSubstr("threads: 1"));
}

TEST(CommandLine, PlanListsEveryKey) {
  const Outcome keys = spectrain("plan --keys");
  EXPECT_EQ(keys.code, 0);
  EXPECT_THAT(keys.text, HasSubstr("optimizer.N.newton_schulz.coefficients"));
}

}  // namespace
}  // namespace spectrain
