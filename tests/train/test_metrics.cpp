#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"
#include "train/metrics.h"

namespace spectrain {
namespace {

using testing::HasSubstr;

MetricsHeader header() {
  return {
      "try", "muon", "00ff", "v1", "cpu", 1234, 3.28, "2026-01-31T12:00:00Z", {{"threads", std::int64_t{2}}}};
}

MetricsLine training(std::int64_t step) {
  return {step, step * 1000,   static_cast<double>(step) / 3, 1.0 / static_cast<double>(step + 1),
          {},   {{"lr", 0.02}}};
}

TEST(Metrics, LinesReadAsDocumented) {
  EXPECT_EQ(to_json(header()),
            R"({"run":"try","optimizer":"muon","config_hash":"00ff","version":"v1","device":"cpu",)"
            R"("model_parameters":1234,"target":3.28,"started":"2026-01-31T12:00:00Z","threads":2})");
  EXPECT_EQ(to_json(MetricsLine{3, 96, 0.5, {}, 4.25, {{"finite", false}, {"note", "a \"b\""}}}),
            R"({"step":3,"tokens":96,"train_seconds":0.5,"val_loss":4.25,"finite":false,"note":"a \"b\""})");
  EXPECT_EQ(utc_now().size(), 20u);
}

TEST(Metrics, EveryDoubleReadsBackAsItself) {
  ScratchDirectory dir;
  const double values[] = {1.0 / 3, 0.1 + 0.2, 5e-324,   -0.0,     1.7976931348623157e308,
                           3,       NAN,       INFINITY, -INFINITY};
  {
    MetricsWriter writer(dir / "m", header());
    for (const double v : values) writer.write({1, 2, 3, v, {}, {{"again", v}}});
  }
  const MetricsFile file = read_metrics(dir / "m");
  ASSERT_EQ(file.lines.size(), std::size(values));
  for (std::size_t i = 0; i < std::size(values); ++i) {
    const double back = *file.lines[i].train_loss;
    EXPECT_TRUE(std::isnan(values[i]) ? std::isnan(back)
                                      : back == values[i] && std::signbit(back) == std::signbit(values[i]));
  }
  EXPECT_TRUE(std::isinf(std::get<double>(file.lines[7].more.at(0).second)));
  EXPECT_EQ(file.header.run, "try");
  EXPECT_EQ(file.header.model_parameters, 1234);
  EXPECT_EQ(std::get<std::int64_t>(file.header.more.at(0).second), 2);
  EXPECT_FALSE(file.torn);
}

TEST(Metrics, EachLineIsOnDiskAsSoonAsItIsWritten) {
  ScratchDirectory dir;
  MetricsWriter writer(dir / "m", header());
  for (int i = 1; i <= 3; ++i) {
    writer.write(training(i));
    EXPECT_EQ(read_metrics(dir / "m").lines.size(), static_cast<std::size_t>(i));
  }
  EXPECT_THROW(MetricsWriter(dir / "m", header()), RequestError);
}

TEST(Metrics, ResumingDropsWhatWasBeyondTheStepAndATornLine) {
  ScratchDirectory dir;
  for (const std::string& tail :
       {std::string(), std::string("{\"step\":11,\"tok"), std::string("garbage\n")}) {
    std::filesystem::remove(dir / "m");
    {
      MetricsWriter writer(dir / "m", header());
      for (int i = 1; i <= 10; ++i) writer.write(training(i));
    }
    const std::string ten = contents_of(dir / "m");
    put_contents(dir / "m", ten + tail);
    {
      auto writer = MetricsWriter::resume(dir / "m", header(), 10);
      EXPECT_EQ(contents_of(dir / "m"), ten);
    }
    {
      auto writer = MetricsWriter::resume(dir / "m", header(), 6);
      writer.write(training(7));
    }
    const MetricsFile file = read_metrics(dir / "m");
    ASSERT_EQ(file.lines.size(), 7u);
    EXPECT_EQ(file.lines.back().step, 7);
    EXPECT_EQ(ten.compare(0, contents_of(dir / "m").size(), contents_of(dir / "m")), 0)
        << "same bytes as the first time";
  }
}

TEST(Metrics, ResumingWithNothingThereBeginsAnew) {
  ScratchDirectory dir;
  MetricsWriter::resume(dir / "absent", header(), 5).write(training(6));
  EXPECT_EQ(read_metrics(dir / "absent").header.run, "try");
  put_contents(dir / "torn", "{\"run\":\"t");
  MetricsWriter::resume(dir / "torn", header(), 5).write(training(6));
  EXPECT_EQ(read_metrics(dir / "torn").lines.size(), 1u);
}

TEST(Metrics, ReaderToleratesATornLastLineOnly) {
  ScratchDirectory dir;
  const std::string good = to_json(header()) + "\n" + to_json(training(1)) + "\n";
  put_contents(dir / "m", good + to_json(training(2)).substr(0, 25));
  EXPECT_TRUE(read_metrics(dir / "m").torn);
  EXPECT_EQ(read_metrics(dir / "m").lines.size(), 1u);

  const auto refusal = [&](const std::string& text) {
    put_contents(dir / "m", text);
    return message_of<RequestError>([&] { read_metrics(dir / "m"); });
  };
  EXPECT_THAT(refusal(good + "{\"step\n" + to_json(training(3)) + "\n"),
              HasSubstr("m:3: it is not a JSON object"));
  EXPECT_THAT(refusal(to_json(training(1)) + "\n"), HasSubstr("m:1: it is not the header"));
  EXPECT_THAT(refusal(good + "{\"step\":\"x\",\"tokens\":1,\"train_seconds\":1}\n"),
              HasSubstr("m:3: its 'step' is missing or not a whole number"));
  EXPECT_THAT(refusal(""), HasSubstr("is empty"));
}

}  // namespace
}  // namespace spectrain
