#include "train/mpirun_output.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace spectrain {
namespace {

// Parts of the boxes that say nothing but that a rank ended and the others were stopped for it.
constexpr const char* kAboutEnd[] = {
    "mpirun noticed that process rank",
    "mpirun has exited due to process rank",
    "Primary job  terminated normally",
    "mpirun detected that one or more processes exited with non-zero status",
    "prterun noticed that process rank",
    "prterun detected that one or more processes exited with non-zero status",
    "MPI_ABORT was invoked on rank"};

bool is_dashes(const std::string& line) {
  return line.size() >= 20 && line.find_first_not_of('-') == line.npos;
}

// "[host:1234] Read -1, expected 4096, errno = 3": Open MPI could not read the memory of a rank that is gone.
// With another errno it may not read that of any rank, which is worth knowing.
bool is_read_of_nobody(const std::string& line) {
  return line.starts_with("[") && line.find("] Read -1, expected ") != line.npos &&
         line.ends_with(", errno = 3");
}

// "[host:1234] 1 more process has sent help message ..." and the like.
bool is_note(const std::string& line) {
  return line.starts_with("mpirun: Forwarding signal ") || line.find("has sent help message") != line.npos ||
         line.find("have sent help message") != line.npos ||
         line.find("\"orte_base_help_aggregate\"") != line.npos || line == "mpirun: killing job..." ||
         line == "mpirun: abort is already in progress...hit ctrl-c again to forcibly terminate";
}

// The number behind `words` in the line.
std::optional<int> number_after(const std::string& line, const char* words) {
  std::size_t at = line.find(words);
  if (at == line.npos) return std::nullopt;
  at = std::min(line.find_first_not_of(' ', at + std::strlen(words)), line.size());
  int n = 0;
  const auto [stop, error] = std::from_chars(line.data() + at, line.data() + line.size(), n);
  return error == std::errc() ? std::optional<int>(n) : std::nullopt;
}

}  // namespace

std::string MpirunOutput::take(std::string_view bytes) {
  std::string out;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = bytes.find('\n', begin);
    line_ += bytes.substr(begin, end - begin);
    if (end == bytes.npos) break;
    take_line(line_, out);
    line_.clear();
    begin = end + 1;
  }
  return out;
}

std::string MpirunOutput::finish() {
  std::string out;
  if (!line_.empty()) take_line(line_, out);
  line_.clear();
  if (in_box_) take_box(out);
  return out;
}

void MpirunOutput::take_line(const std::string& line, std::string& out) {
  const bool ours = line.starts_with("spectrain: ");
  reported_ = reported_ || ours;
  if (ours) {
    out += line + '\n';  // wherever it comes, also into a box
  } else if (is_dashes(line)) {
    box_ += line + '\n';
    if (in_box_)
      take_box(out);
    else
      in_box_ = true;
  } else if (in_box_) {
    box_ += line + '\n';
    read_end(line);
  } else if (!is_note(line) && !is_read_of_nobody(line)) {
    out += line + '\n';
  }
}

void MpirunOutput::take_box(std::string& out) {
  if (!box_about_end_) out += box_;
  box_.clear();
  in_box_ = box_about_end_ = false;
}

void MpirunOutput::read_end(const std::string& line) {
  for (const char* part : kAboutEnd) box_about_end_ = box_about_end_ || line.find(part) != line.npos;
  if (const auto rank = number_after(line, "noticed that process rank"); rank && !first_end_) {
    // "... with PID 12 on node x exited on signal 9 (Killed)."
    const std::size_t at = line.find("signal ");
    if (at != line.npos) first_end_ = {*rank, 0, line.substr(at, line.find_last_not_of(". ") + 1 - at)};
  }
  for (const char* words : {"has exited due to process rank", "MPI_ABORT was invoked on rank"})
    if (const auto rank = number_after(line, words); rank && !first_end_) first_end_ = {*rank, 0, {}};
  // "  Process name: [[12345,1],3]" and in the next line "  Exit code:    1"
  if (line.find("Process name:") != line.npos && !first_end_) {
    if (const auto rank = number_after(line, "],")) first_end_ = {*rank, 0, {}};
  }
  if (const auto code = number_after(line, "Exit code:"); code && first_end_ && first_end_->signal.empty())
    first_end_->exit_code = *code;
}

}  // namespace spectrain
