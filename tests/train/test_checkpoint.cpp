#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>

#include "tests/train/scratch_directory.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A little run whose every value says which step it belongs to.
class SmallRun {
 public:
  explicit SmallRun(std::int64_t values = 1000) : a_(size(values)), b_(size(values / 2)), m_(size(values)) {}

  void set(std::int64_t step) {
    step_ = step;
    for (std::size_t i = 0; i < a_.size(); ++i)
      a_[i] = static_cast<float>(step) + static_cast<float>(i) * 0x1p-20f;
    std::fill(b_.begin(), b_.end(), static_cast<float>(-step));
    std::fill(m_.begin(), m_.end(), static_cast<float>(step) * 0.5f);
  }
  std::vector<StateTensor> model() {
    return {{"h.0.a", Tensor(a_.data(), DType::f32, {static_cast<std::int64_t>(a_.size())})},
            {"h.0.b", Tensor(b_.data(), DType::f32, {1, static_cast<std::int64_t>(b_.size())})}};
  }
  std::vector<StateTensor> optimizer() {
    return {{"h.0.a.momentum", Tensor(m_.data(), DType::f32, {static_cast<std::int64_t>(m_.size())})}};
  }
  CheckpointContents contents() { return {model(), optimizer(), {{"step", step_}, {"loss", 1.0 / 3.0}}}; }
  void expect_step(std::int64_t step) {
    SmallRun other(static_cast<std::int64_t>(a_.size()));
    other.set(step);
    EXPECT_TRUE(a_ == other.a_ && b_ == other.b_ && m_ == other.m_) << "not all of step " << step;
  }

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  std::vector<float> a_, b_, m_;
  std::int64_t step_ = 0;
};

class Checkpoints : public testing::Test {
 protected:
  std::string write(std::int64_t step, int keep = 0) {
    run.set(step);
    return write_checkpoint(directory, step, run.contents(), *backend, keep);
  }
  std::vector<std::int64_t> steps() {
    std::vector<std::int64_t> found;
    for (const StepDirectory& d : step_directories(directory)) found.push_back(d.step);
    return found;
  }
  // Loads it and checks that everything in it is of its step.
  void expect_whole(const std::string& path) {
    const CheckpointReader reader(path);
    SmallRun loaded;
    loaded.set(-7);
    reader.load_model(*backend, loaded.model());
    reader.load_optimizer(*backend, loaded.optimizer());
    loaded.expect_step(reader.step());
    EXPECT_EQ(reader.state().at("step").get<std::int64_t>(), reader.step());
    EXPECT_EQ(reader.state().at("loss").get<double>(), 1.0 / 3.0);
  }

  ScratchDirectory scratch;
  std::string directory = scratch / "run/checkpoints";
  std::unique_ptr<Backend> backend = make_cpu_backend({});
  SmallRun run;
};

TEST_F(Checkpoints, RoundTrip) {
  EXPECT_EQ(newest_checkpoint(directory), std::nullopt);
  const std::string path = write(1000);
  EXPECT_EQ(path, directory + "/step-00001000");
  expect_whole(path);
  write(250);  // an earlier step written later: the run went back
  EXPECT_EQ(newest_checkpoint(directory)->step, 250);
}

TEST_F(Checkpoints, StepsAboveEightDigitsSortByNumber) {
  write(99'999'999);
  write(100'000'000);
  EXPECT_EQ(newest_checkpoint(directory)->step, 100'000'000);
  EXPECT_THAT(steps(), ElementsAre(99'999'999, 100'000'000));
}

TEST_F(Checkpoints, TheSameStepAgainReplacesIt) {
  write(5);
  write(5);
  expect_whole(directory + "/step-00000005");
  EXPECT_THAT(steps(), ElementsAre(5));
  for (const auto& e : fs::directory_iterator(directory)) EXPECT_EQ(e.path().filename(), "step-00000005");
}

TEST_F(Checkpoints, KeepsTheNewestAndNeverLess) {
  for (int keep = 1; keep <= 4; ++keep) {
    fs::remove_all(directory);
    for (std::int64_t step = 1; step <= 8; ++step) {
      write(step * 10, keep);
      std::vector<std::int64_t> expected;
      for (std::int64_t s = std::max<std::int64_t>(1, step - keep + 1); s <= step; ++s)
        expected.push_back(s * 10);
      EXPECT_EQ(steps(), expected) << "keep " << keep;
    }
  }
  fs::remove_all(directory);
  for (std::int64_t step = 1; step <= 5; ++step) write(step, 0);
  EXPECT_EQ(steps().size(), 5u);
}

TEST_F(Checkpoints, DamagedOnesDoNotCountAsKept) {
  write(1);
  write(2);
  write(3);
  fs::resize_file(directory + "/step-00000003/model.safetensors", 10);
  write(4, 2);  // keeps 4 and 2; 3 is no checkpoint and is not touched
  EXPECT_THAT(steps(), ElementsAre(2, 3, 4));
  EXPECT_EQ(list_checkpoints(directory).size(), 2u);
}

TEST_F(Checkpoints, AnAbandonedFutureIsSetAsideNotResumed) {
  write(100);
  write(200);
  write(150, 1);
  EXPECT_THAT(steps(), ElementsAre(150));
  EXPECT_TRUE(fs::exists(directory + "/step-00000200.abandoned/manifest.json"));
  write(200, 2);
  write(160, 2);
  EXPECT_TRUE(fs::exists(directory + "/step-00000200.abandoned-2/manifest.json"));
  EXPECT_EQ(newest_checkpoint(directory)->step, 160);
}

// ---------------------------------------------------------------------------------------- damage

TEST_F(Checkpoints, AnyMissingOrShortFileFallsBackToTheOneBefore) {
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"})
    for (const bool remove : {true, false}) {
      fs::remove_all(directory);
      write(1);
      const std::string file = write(2) + "/" + name;
      if (remove)
        fs::remove(file);
      else
        fs::resize_file(file, fs::file_size(file) / 2);
      std::vector<std::string> notes;
      const auto found = newest_checkpoint(directory, Verify::sizes, &notes);
      ASSERT_TRUE(found);
      EXPECT_EQ(found->step, 1) << name;
      ASSERT_EQ(notes.size(), 1u);
      EXPECT_THAT(notes[0], HasSubstr("step-00000002"));
      EXPECT_EQ(found->notes, notes);
      expect_whole(found->path);
      EXPECT_THROW(CheckpointReader(directory + "/step-00000002"), RequestError);
    }
}

TEST_F(Checkpoints, AFlippedBitIsFoundByItsChecksum) {
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    fs::remove_all(directory);
    write(1);
    const std::string path = write(2), file = path + "/" + name;
    std::string text = contents_of(file);
    text[text.size() - 5] = static_cast<char>(text[text.size() - 5] ^ 4);
    put_contents(file, text);
    EXPECT_EQ(newest_checkpoint(directory, Verify::sizes)->step, 2);
    EXPECT_EQ(newest_checkpoint(directory)->step, 1);
    SmallRun loaded;
    loaded.set(9);
    const std::string message = message_of<RequestError>([&] {
      const CheckpointReader reader(path);
      reader.load_model(*backend, loaded.model());
      loaded.set(9);
      reader.load_optimizer(*backend, loaded.optimizer());
    });
    EXPECT_THAT(message, HasSubstr(file + " is damaged: its checksum is"));
    loaded.expect_step(9);  // nothing was touched by the refused file
  }
}

TEST_F(Checkpoints, NothingWholeIsNothingFoundWithAllReasons) {
  write(1);
  write(2);
  for (const char* step : {"/step-00000001", "/step-00000002"})
    fs::remove(directory + step + "/manifest.json");
  std::vector<std::string> notes;
  EXPECT_EQ(newest_checkpoint(directory, Verify::contents, &notes), std::nullopt);
  EXPECT_EQ(notes.size(), 2u);
}

TEST_F(Checkpoints, LoadingNamesTheFirstDifferenceBothWays) {
  const CheckpointReader reader(write(3));
  SmallRun other;
  other.set(1);
  auto more = other.model(), fewer = other.model(), shaped = other.model(), typed = other.model();
  more.push_back({"h.1.a", more[0].tensor});
  fewer.pop_back();
  shaped[1].tensor.shape = {500, 1};
  typed[0].tensor.dtype = DType::i32;
  const auto refusal = [&](const std::vector<StateTensor>& into) {
    return message_of<RequestError>([&] { reader.load_model(*backend, into); });
  };
  EXPECT_THAT(refusal(more), HasSubstr("no tensor 'h.1.a' that this run needs"));
  EXPECT_THAT(refusal(fewer), HasSubstr("tensor 'h.0.b' that this run does not know"));
  EXPECT_THAT(refusal(shaped), HasSubstr("tensor 'h.0.b' has shape [1, 500] where [500, 1] is expected"));
  EXPECT_THAT(refusal(typed), HasSubstr("tensor 'h.0.a' is F32 where I32 is expected"));
  other.expect_step(1);
}

// ---------------------------------------------------------------------------------------- failing writes

// Runs `action` in a child with the given limit on file sizes; its exit code.
template <class Action>
int in_child_with_file_limit(std::size_t bytes, Action&& action) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);  // the write then fails with EFBIG
    const rlimit limit{bytes, bytes};
    setrlimit(RLIMIT_FSIZE, &limit);
    _exit(action());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(Checkpoints, AWriteThatFailsLeavesTheOldOnesAndNoRubbish) {
  write(1);
  const std::size_t whole = fs::file_size(directory + "/step-00000001/model.safetensors");
  // 0: nothing can be written; then within the header, the data, and one byte short
  for (const std::size_t limit : {std::size_t{0}, std::size_t{20}, whole / 2, whole - 1}) {
    const int code = in_child_with_file_limit(limit, [&] {
      try {
        write(2, 1);
        return 10;
      } catch (const Error& e) {
        const std::string message = e.what();
        return message.find("step 2 was not written") != std::string::npos &&
                       message.find("File too large") != std::string::npos
                   ? 0
                   : 11;
      }
    });
    EXPECT_EQ(code, 0) << "limit " << limit;
    EXPECT_THAT(steps(), ElementsAre(1));
    int entries = 0;
    for ([[maybe_unused]] const auto& e : fs::directory_iterator(directory)) ++entries;
    EXPECT_EQ(entries, 1);
    expect_whole(directory + "/step-00000001");
  }
}

TEST_F(Checkpoints, LeftoversOfKilledWritesAreRemovedByTheNext) {
  write(1);
  for (const char* name : {"/.writing-step-00000002", "/.removing-step-00000000"}) {
    fs::create_directories(directory + name);
    put_contents(directory + name + "/model.safetensors", "half");
  }
  EXPECT_EQ(newest_checkpoint(directory)->step, 1);
  write(2);
  EXPECT_FALSE(fs::exists(directory + "/.writing-step-00000002"));
  EXPECT_FALSE(fs::exists(directory + "/.removing-step-00000000"));
  EXPECT_THAT(steps(), ElementsAre(1, 2));
}

}  // namespace
}  // namespace spectrain
