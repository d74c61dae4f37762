#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/train/scratch_directory.h"

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
  refused("sample --checkpoint x --tokens -3", "--tokens: -3 is not a number > 0");
  refused("sample --checkpoint x --temperature -1", "--temperature: -1 is not a number >= 0");
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

// The metrics of a run that only validated.
std::string validated_run(const ScratchDirectory& scratch, const std::string& name, double last) {
  const std::string path = scratch / (name + ".jsonl");
  std::ofstream(path) << "{\"run\":\"" << name << "\",\"optimizer\":\"muon 0.02\"}\n"
                      << "{\"step\":0,\"tokens\":0,\"train_seconds\":0,\"val_loss\":6}\n"
                      << "{\"step\":4,\"tokens\":4000,\"train_seconds\":1,\"val_loss\":" << (6 + last) / 2
                      << "}\n"
                      << "{\"step\":8,\"tokens\":8000,\"train_seconds\":2,\"val_loss\":" << last << "}\n";
  return "'" + path + "' ";
}

TEST(CommandLine, PlotDrawsAndComparesRuns) {
  const ScratchDirectory scratch;
  const std::string runs = validated_run(scratch, "first", 4) + validated_run(scratch, "second", 3);
  const Outcome both = spectrain("plot " + runs + "--ascii --width 60 --height 12 --target 5");
  ASSERT_EQ(both.code, 0) << both.text;
  for (const char* part : {"loss against tokens", "o first  val 4.0000", "tokens to 5", "4.00k", "2.67k"})
    EXPECT_THAT(both.text, HasSubstr(part));
  EXPECT_EQ(std::count_if(both.text.begin(), both.text.end(), [](unsigned char c) { return c >= 0x80; }), 0);
  const Outcome table = spectrain("plot " + runs + "--table");
  EXPECT_THAT(table.text, StartsWith("run "));
  EXPECT_THAT(table.text, ::testing::Not(HasSubstr("loss against")));
}

TEST(CommandLine, PlotDrawsPictures) {
  if (std::system("gnuplot --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "gnuplot is not installed";
  const ScratchDirectory scratch;
  const std::string out = scratch / "loss.svg";
  const Outcome drawn = spectrain("plot " + validated_run(scratch, "first", 4) +
                                  "--log-x --title 'A title' --out '" + out + "'");
  ASSERT_EQ(drawn.code, 0) << drawn.text;
  const Outcome nowhere =
      spectrain("plot " + validated_run(scratch, "second", 3) + "--out /no-such-place/a.svg");
  EXPECT_EQ(nowhere.code, 2);
  EXPECT_EQ(nowhere.text, "spectrain: /no-such-place/a.svg cannot be written: No such file or directory\n");
  std::ifstream file(out);
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(file), {}), HasSubstr("A title"));
}

TEST(CommandLine, PlotOptionsBelongToTheChartOrToThePicture) {
  EXPECT_THAT(spectrain("plot x --log-x").text, HasSubstr("--log-x requires --out"));
  EXPECT_THAT(spectrain("plot x --title T").text, HasSubstr("--title requires --out"));
  const Outcome both = spectrain("plot x --ascii --out a.svg");
  EXPECT_EQ(both.code, 2);
  EXPECT_THAT(both.text, HasSubstr("excludes --ascii"));
}

TEST(CommandLine, PlanListsEveryKey) {
  const Outcome keys = spectrain("plan --keys");
  EXPECT_EQ(keys.code, 0);
  EXPECT_THAT(keys.text, HasSubstr("optimizer.N.newton_schulz.coefficients"));
}

}  // namespace
}  // namespace spectrain
