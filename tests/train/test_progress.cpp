#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/train/scratch_directory.h"
#include "train/progress.h"

namespace spectrain {
namespace {

using testing::HasSubstr;

TEST(Progress, HumanNumbers) {
  const std::pair<double, const char*> counts[] = {
      {0, "0"},        {999, "999"},      {1000, "1.00k"},   {1234, "1.23k"},  {9999, "10.0k"},
      {99960, "100k"}, {999499, "999k"},  {999500, "1.00M"}, {1.2e6, "1.20M"}, {4.56e9, "4.56B"},
      {0.5, "0.50"},   {-1500, "-1.50k"}, {NAN, "-"}};
  for (const auto& [value, text] : counts) EXPECT_EQ(human_count(value), text);
  const std::pair<double, const char*> times[] = {{0, "0.0s"},       {9.94, "9.9s"},  {9.96, "10s"},
                                                  {59.4, "59s"},     {59.6, "1m00s"}, {192, "3m12s"},
                                                  {3599.6, "1h00m"}, {7500, "2h05m"}, {86399, "1d00h"},
                                                  {273600, "3d04h"}, {-1, "-"},       {INFINITY, "-"}};
  for (const auto& [value, text] : times) EXPECT_EQ(human_duration(value), text) << value;
}

ProgressState state(std::int64_t step) {
  ProgressState s;
  s.step = step;
  s.steps = 2000;
  s.tokens = step * 131072;
  s.loss = 4.12345;
  s.val_loss = 4.2;
  s.lr = 0.02;
  s.tokens_per_second = 1.234e6;
  s.share_of_peak = 0.451;
  s.seconds_left = 192;
  return s;
}

TEST(Progress, PlainLine) {
  EXPECT_EQ(progress_line(state(120)),
            "step  120/2000 | 15.7M tok | loss  4.1235 | val  4.2000 | lr 0.020000 | 1.23M tok/s |  45.1% of "
            "peak |  3m12s left");
  ProgressState s = state(1);
  s.val_loss.reset();
  s.share_of_peak.reset();
  s.loss = NAN;
  s.seconds_left = -1;
  EXPECT_EQ(
      progress_line(s),
      "step    1/2000 |  131k tok | loss     nan | val       - | lr 0.020000 | 1.23M tok/s |      - left");
}

TEST(Progress, ColumnsStandStill) {
  const auto width = progress_line(state(1)).size();
  for (const std::int64_t step : {9, 10, 99, 1000, 1999, 2000})
    EXPECT_EQ(progress_line(state(step)).size(), width);
}

int columns_of(const std::string& text) {
  int columns = 0;
  for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return columns;
}

TEST(Progress, TheBarNeverWraps) {
  for (int columns = 0; columns <= 220; ++columns)
    for (const bool unicode : {false, true})
      for (const std::int64_t step : {0, 1, 777, 2000, 2500}) {
        const std::string bar = progress_bar(state(step), columns, unicode);
        EXPECT_LE(columns_of(bar), columns) << bar;
        if (columns > 40) {
          EXPECT_THAT(bar, HasSubstr("step"));
        }
      }
  EXPECT_THAT(progress_bar(state(1000), 79, false), HasSubstr("[===="));
  EXPECT_THAT(progress_bar(state(1000), 79, true), HasSubstr("█"));
  EXPECT_THAT(progress_bar(state(1000), 79, true), HasSubstr("loss  4.1235"));
}

std::string printed(ProgressOptions options, const std::function<void(Progress&)>& action) {
  ScratchDirectory dir;
  std::FILE* file = std::fopen((dir / "out").c_str(), "w");
  options.to = file;
  {
    Progress progress(options);
    action(progress);
  }
  std::fclose(file);
  return contents_of(dir / "out");
}

TEST(Progress, InAFilePlainLinesAtTheRateAskedFor) {
  double now = 0;
  ProgressOptions options;
  options.every_seconds = 10;
  options.now = [&] { return now; };
  const std::string by_time = printed(options, [&](Progress& p) {
    for (int step = 1; step <= 100; ++step, now += 1) p.update(state(step));
    p.finish();
  });
  EXPECT_EQ(std::count(by_time.begin(), by_time.end(), '\n'), 11);  // 1, 11, ..., 91, and 100
  EXPECT_THAT(by_time, HasSubstr("step  100/2000"));
  EXPECT_EQ(by_time.find('\r'), std::string::npos);
  EXPECT_EQ(by_time.find('\033'), std::string::npos);

  options.every_seconds = 1e9;
  options.every_steps = 25;
  const std::string by_step = printed(options, [&](Progress& p) {
    for (int step = 1; step <= 100; ++step) p.update(state(step));
    p.note("saved");
  });
  EXPECT_EQ(std::count(by_step.begin(), by_step.end(), '\n'), 5);  // 1, 26, 51, 76, the note
}

TEST(Progress, OnATerminalOneLineIsRewritten) {
  double now = 0;
  ProgressOptions options;
  options.terminal = true;
  options.unicode = false;
  options.now = [&] { return now; };
  options.columns = [] { return 80; };
  const std::string text = printed(options, [&](Progress& p) {
    for (int step = 1; step <= 10; ++step, now += 0.05) p.update(state(step));
    p.note("validation loss 3.2");
    p.finish();
  });
  EXPECT_THAT(text, HasSubstr("\r\033[Kvalidation loss 3.2\n\r["));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_LT(std::count(text.begin(), text.end(), '\r'), 10);
}

}  // namespace
}  // namespace spectrain
