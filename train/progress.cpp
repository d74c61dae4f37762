#include "train/progress.h"

#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <clocale>
#include <cstdlib>
#include <utility>

namespace spectrain {
namespace {

constexpr double kRedraw = 0.1;  // seconds between two drawings of the bar

int columns_of(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

ProgressOptions progress_options_for(std::FILE* to) {
  ProgressOptions options;
  options.to = to;
  const char* term = std::getenv("TERM");
  options.terminal = isatty(fileno(to)) == 1 && term != nullptr && std::string_view(term) != "dumb";
  options.unicode = locale_is_utf8();
  return options;
}

bool locale_is_utf8() {
  // Asked of the environment's locale without setting the process's: number formats must stay C's.
  const locale_t locale = newlocale(LC_CTYPE_MASK, "", nullptr);
  if (locale == nullptr) return false;
  const bool utf8 = std::string_view(nl_langinfo_l(CODESET, locale)) == "UTF-8";
  freelocale(locale);
  return utf8;
}

Progress::Progress(ProgressOptions options) : options_(std::move(options)) {
  if (!options_.columns) options_.columns = [stream = options_.to] { return columns_of(stream); };
  if (!options_.now)
    options_.now = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
}

Progress::~Progress() {
  if (bar_on_screen_) std::fputc('\n', options_.to);
}

void Progress::update(const ProgressState& state) {
  last_ = state;
  const double since = options_.now() - printed_at_;
  const bool first = printed_step_ < 0, done = state.step >= state.steps;
  const bool due = options_.terminal
                       ? since >= kRedraw
                       : since >= options_.every_seconds ||
                             (options_.every_steps > 0 && state.step - printed_step_ >= options_.every_steps);
  if (first || done || due) print(state);
}

void Progress::print(const ProgressState& state) {
  if (options_.terminal) {
    // One column stays free: some terminals wrap as soon as the last one is written. \033[K clears the rest.
    const std::string line = progress_bar(state, options_.columns() - 1, options_.unicode);
    std::fprintf(options_.to, "\r%s\033[K", line.c_str());
    bar_on_screen_ = true;
  } else {
    std::fprintf(options_.to, "%s\n", progress_line(state).c_str());
  }
  std::fflush(options_.to);
  printed_at_ = options_.now();
  printed_step_ = state.step;
}

void Progress::note(std::string_view text) {
  std::fprintf(options_.to, "%s%.*s\n", bar_on_screen_ ? "\r\033[K" : "", static_cast<int>(text.size()),
               text.data());
  bar_on_screen_ = false;
  if (options_.terminal && last_) print(*last_);
  std::fflush(options_.to);
}

void Progress::finish() {
  if (last_ && (options_.terminal || printed_step_ != last_->step)) print(*last_);
  if (bar_on_screen_) std::fputc('\n', options_.to);
  bar_on_screen_ = false;
  std::fflush(options_.to);
}

}  // namespace spectrain
