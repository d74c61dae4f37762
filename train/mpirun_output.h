#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace spectrain {

// How mpirun says the first failing rank ended.
struct RankEnd {
  int rank = -1;
  int exit_code = 0;   // where it ended by itself; 0: mpirun does not say
  std::string signal;  // "signal 9 (Killed)" where that ended it
};

// What mpirun writes on standard error, without what it adds to the one sentence of a failed run: the boxes
// between lines of dashes that say a rank ended, and notes about signals, about its own messages and
// about memory of a rank that is gone. All else
// passes, lines of the ranks and other boxes of mpirun's (no shared memory, an unknown parameter) among them.
class MpirunOutput {
 public:
  // The next bytes as they come; returns those of the user, whole lines.
  std::string take(std::string_view bytes);
  // What is left when no more bytes come.
  std::string finish();

  bool reported() const { return reported_; }                             // a rank said "spectrain: ..."
  const std::optional<RankEnd>& first_end() const { return first_end_; }  // as far as mpirun said it

 private:
  void take_line(const std::string& line, std::string& out);
  void take_box(std::string& out);
  void read_end(const std::string& line);

  std::string line_;  // not complete yet
  std::string box_;   // since the opening line of dashes
  bool in_box_ = false;
  bool box_about_end_ = false;
  bool reported_ = false;
  std::optional<RankEnd> first_end_;
};

}  // namespace spectrain
