#include "train/tensorboard.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/train/tiny_run.h"

// Event files, read back by a reader written here from the formats' descriptions, and by TensorBoard itself
// where it is installed.

namespace spectrain {
namespace {

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

// The records of a file; every checksum is checked.
std::vector<std::string> records_of(const std::string& path) {
  const std::string file = contents_of(path);
  std::vector<std::string> records;
  for (std::size_t at = 0; at < file.size();) {
    const std::string_view rest = std::string_view(file).substr(at);
    if (rest.size() < 16) {
      ADD_FAILURE() << "a torn record";
      break;
    }
    const std::size_t length = little_endian(rest.substr(0, 8));
    EXPECT_EQ(little_endian(rest.substr(8, 4)), masked_crc32c(rest.substr(0, 8)));
    EXPECT_EQ(little_endian(rest.substr(12 + length, 4)), masked_crc32c(rest.substr(12, length)));
    records.emplace_back(rest.substr(12, length));
    at += 16 + length;
  }
  return records;
}

// Fields of a message by number, the values as their bytes (numbers little-endian, varints as 8 bytes).
std::multimap<int, std::string> fields_of(std::string_view message) {
  std::multimap<int, std::string> out;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; !message.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(message.front());
      message.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    return value;
  };
  while (!message.empty()) {
    const std::uint64_t tag = varint();
    const auto take = [&](std::size_t n) {
      std::string bytes(message.substr(0, n));
      message.remove_prefix(n);
      return bytes;
    };
    std::string value;
    switch (tag & 7) {
      case 0: {
        const std::uint64_t number = varint();
        for (int i = 0; i < 8; ++i) value += static_cast<char>(number >> (8 * i));
        break;
      }
      case 1:
        value = take(8);
        break;
      case 2:
        value = take(varint());
        break;
      case 5:
        value = take(4);
        break;
      default:
        ADD_FAILURE() << "kind " << (tag & 7);
    }
    out.emplace(static_cast<int>(tag >> 3), value);
  }
  return out;
}

float real32(const std::string& bytes) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(little_endian(bytes)));
}

// step -> tag -> value
using Scalars = std::map<std::int64_t, std::map<std::string, float>>;

Scalars scalars_of(const std::vector<std::string>& records) {
  Scalars out;
  for (const std::string& record : records) {
    const auto event = fields_of(record);
    EXPECT_EQ(event.count(1), 1u);
    const auto summary = event.find(5);
    if (summary == event.end()) continue;
    const auto step = static_cast<std::int64_t>(little_endian(event.find(2)->second));
    for (const auto& [number, value] : fields_of(summary->second)) {
      const auto scalar = fields_of(value);
      out[step][scalar.find(1)->second] = real32(scalar.find(2)->second);
    }
  }
  return out;
}

std::vector<std::string> event_files(const std::string& directory) {
  std::vector<std::string> out;
  for (const auto& e : std::filesystem::directory_iterator(directory))
    if (e.path().filename().string().starts_with("events.out.tfevents.")) out.push_back(e.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

TEST(Tensorboard, ChecksumIsCastagnolis) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
}

TEST(Tensorboard, FileBeginsWithItsVersion) {
  const ScratchDirectory scratch;
  TensorboardWriter writer(scratch.path(), 0);
  const auto records = records_of(writer.path());
  ASSERT_EQ(records.size(), 1u);
  const auto event = fields_of(records[0]);
  EXPECT_EQ(event.find(3)->second, "brain.Event:2");
  const double wall = std::bit_cast<double>(little_endian(event.find(1)->second));
  EXPECT_GT(wall, 1.6e9);
  TensorboardWriter second(scratch.path(), 0);
  EXPECT_NE(second.path(), writer.path());
}

TEST(Tensorboard, HoldsWhatMetricsHold) {
  const TinyRun tiny;
  train(tiny.config(), named("events", {"train.tensorboard=true", "train.steps=12"}));
  const auto files = event_files(tiny.directory("events"));
  ASSERT_EQ(files.size(), 1u);
  const Scalars scalars = scalars_of(records_of(files[0]));
  int training = 0, validations = 0;
  for (const MetricsLine& line : read_metrics(tiny.directory("events") + "/metrics.jsonl").lines) {
    SCOPED_TRACE(line.step);
    const auto& at = scalars.at(line.step);
    if (line.val_loss) {
      EXPECT_EQ(at.at("loss/validation"), static_cast<float>(*line.val_loss));
      ++validations;
    }
    if (line.train_loss) {
      EXPECT_EQ(at.at("loss/train"), static_cast<float>(*line.train_loss));
      for (const auto& [name, value] : line.more)
        if (const auto* real = std::get_if<double>(&value)) {
          EXPECT_EQ(at.at(name), static_cast<float>(*real)) << name;
        }
      EXPECT_TRUE(at.contains("lr") && at.contains("gradient_norm"));
      ++training;
    }
  }
  EXPECT_EQ(training, 12);
  EXPECT_EQ(validations, 3);
  train(tiny.config(), named("quiet", {"train.steps=2"}));
  EXPECT_TRUE(event_files(tiny.directory("quiet")).empty());
}

TEST(Tensorboard, AResumedRunVoidsWhatCameAfterItsCheckpoint) {
  const ScratchDirectory scratch;
  TensorboardWriter writer(scratch.path(), 300);
  writer.write({301, 1, 0, 2.5, {}, {{"count", std::int64_t{7}}, {"text", std::string("x")}}});
  const auto records = records_of(writer.path());
  ASSERT_EQ(records.size(), 3u);
  const auto restart = fields_of(records[1]);
  EXPECT_EQ(little_endian(restart.find(2)->second), 301u);
  EXPECT_EQ(little_endian(fields_of(restart.find(7)->second).find(1)->second), 1u) << "SessionLog.START";
  const auto at = scalars_of(records).at(301);
  EXPECT_EQ(at.at("loss/train"), 2.5f);
  EXPECT_EQ(at.at("count"), 7.0f);
  EXPECT_EQ(at.count("text"), 0u);
}

TEST(Tensorboard, TensorBoardReadsIt) {
  if (std::system("python3 -c 'import tensorboard' >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "python3 has no tensorboard package";
  const ScratchDirectory scratch;
  {
    TensorboardWriter first(scratch.path(), 0);
    for (int step = 1; step <= 200; ++step) first.write({step, step, 0, 4.0 / step, {}, {{"lr", 0.5}}});
    TensorboardWriter again(scratch.path(), 150);
    for (int step = 151; step <= 160; ++step) again.write({step, step, 0, 9.0, {}, {}});
  }
  const std::string script = fmt::format(R"(
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator("{}", size_guidance={{"scalars": 0}})
a.Reload()
losses = {{e.step: e.value for e in a.Scalars("loss/train")}}
assert sorted(losses) == list(range(1, 161)), sorted(losses)
assert losses[4] == 1.0 and losses[150] == __import__("struct").unpack("f", __import__("struct").pack("f", 4 / 150))[0]
assert losses[155] == 9.0
assert len(a.Scalars("lr")) == 150
)",
                                         scratch.path());
  put_contents(scratch / "read.py", script);
  EXPECT_EQ(std::system(("python3 " + (scratch / "read.py")).c_str()), 0);
}

}  // namespace
}  // namespace spectrain
