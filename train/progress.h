#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace spectrain {

// ---------------------------------------------------------------------------------------- formatting (pure)

std::string human_count(double value);  // 999, 1.20k, 12.3M, 4.56B, 7.89T: three digits
std::string human_duration(
    double seconds);  // 0.4s, 12s, 3m12s, 2h05m, 3d04h; "-" when unknown (negative, not finite)

struct ProgressState {
  std::int64_t step = 0, steps = 0;  // steps done, of all
  std::int64_t tokens = 0;
  double loss = 0;
  std::optional<double> val_loss;  // the last one
  double lr = 0;
  double tokens_per_second = 0;
  std::optional<double> share_of_peak;  // of the machine's measured matrix product rate, 0..1
  double seconds_left = -1;             // < 0: unknown
};

// "step  120/2000 | 15.7M tok | loss 4.1234 | val 4.2000 | lr 0.0200 | 1.23M tok/s | 45.1% of peak | 3m12s
// left". Fields have fixed widths, so lines stand in columns.
std::string progress_line(const ProgressState& state);

// The same as one line of at most `columns` characters that begins with a bar; what does not fit is left out,
// the least important first. `unicode`: the bar is drawn with block characters (UTF-8), else with '='.
std::string progress_bar(const ProgressState& state, int columns, bool unicode);

// ---------------------------------------------------------------------------------------- printing

struct ProgressOptions {
  std::FILE* to = stderr;
  bool terminal = false;  // true: one line that is rewritten; false: plain lines
  bool unicode = true;
  std::int64_t every_steps = 0;  // a plain line when that many steps have passed (0: never by steps),
  double every_seconds = 10;     // or that many seconds; the first and the last step always
  std::function<int()> columns;  // of the terminal; empty: asks the system at every print
  std::function<double()> now;   // monotonic seconds; empty: the system's
};

bool locale_is_utf8();  // whether the environment's characters are UTF-8

// What the stream is: a terminal or not, and what it can show.
ProgressOptions progress_options_for(std::FILE* to);

class Progress {
 public:
  explicit Progress(ProgressOptions options);
  ~Progress();  // leaves the terminal's last line as it is, ended
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const ProgressState& state);  // at most ten times a second on a terminal
  void note(std::string_view text);         // a line of its own above the bar
  void finish();                            // the last state, printed whatever the rate, and a line end

 private:
  void print(const ProgressState& state);
  ProgressOptions options_;
  std::optional<ProgressState> last_;
  double printed_at_ = 0;
  std::int64_t printed_step_ = -1;
  bool bar_on_screen_ = false;
};

}  // namespace spectrain
