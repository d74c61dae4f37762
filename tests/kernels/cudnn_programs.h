#pragma once

#include <sys/wait.h>

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <vector>

// The programs of tests/kernels/cudnn/, started from tests.

namespace spectrain {

inline const std::string kCudnnEngines = SPECTRAIN_BINARY_DIR "/cudnn_engines";
inline const std::string kH100Properties =
    SPECTRAIN_SOURCE_DIR "/tests/kernels/cudnn/h100_device_properties.json";
inline const char* const kNoCudnnPrograms = "built without CUDA or without cuDNN's headers";

// What cudnn_engines says of one pass.
struct CudnnFound {
  int operations = 0;
  std::vector<int> engines;
  std::vector<int> first_marks, marks;  // of the first engine, and of all
  std::int64_t workspace = -1;
  int code = -1;
};

struct CudnnOutcome {
  int code = -1;
  std::string text;
  std::map<std::string, CudnnFound> passes;
};

// How cuDNN names the two ends of making code: all done, and stopped by the stand-in for the driver.
constexpr int kCudnnMade = 0, kCudnnStoppedByTheDriver = 5001;

inline CudnnFound parse_cudnn_pass(std::istringstream& line) {
  CudnnFound found;
  std::string word, section;
  while (line >> word) {
    if (std::isdigit(static_cast<unsigned char>(word.back())) == 0) {
      section = word;
      continue;
    }
    const long long value = std::stoll(word);
    if (section == "operations") found.operations = static_cast<int>(value);
    if (section == "engines") found.engines.push_back(static_cast<int>(value));
    if (section == "first_marks") found.first_marks.push_back(static_cast<int>(value));
    if (section == "marks") found.marks.push_back(static_cast<int>(value));
    if (section == "workspace") found.workspace = value;
    if (section == "code") found.code = static_cast<int>(value);
  }
  return found;
}

// A program's output and end.
inline CudnnOutcome started(const std::string& command) {
  CudnnOutcome outcome;
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) outcome.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

// `what`: "look" or "make"; `of`: "attention" or "convolution" and its numbers.
inline CudnnOutcome cudnn_engines(const std::string& what, const std::string& of) {
  CudnnOutcome outcome = started("'" + kCudnnEngines + "' '" + kH100Properties + "' " + what + " " + of);
  std::istringstream lines(outcome.text);
  for (std::string line; outcome.code == 0 && std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    outcome.passes[name] = parse_cudnn_pass(words);
  }
  return outcome;
}

}  // namespace spectrain
