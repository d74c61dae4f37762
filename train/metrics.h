#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "train/diagnostics_record.h"
#include "train/durable_file.h"

// metrics.jsonl: what a run measured, one JSON object per line. The first line describes the run, every other
// begins with `step`, `tokens`, `train_seconds`, then has `train_loss` or `val_loss`, or neither where it
// holds `diagnostics` alone. Numbers are written so that they read back as the same double; what JSON has no
// number for is the text "nan", "inf" or "-inf".

namespace spectrain {

using MetricsValue = std::variant<bool, std::int64_t, double, std::string>;
using MetricsFields = std::vector<std::pair<std::string, MetricsValue>>;

struct MetricsHeader {
  std::string run;          // its name
  std::string optimizer;    // for legends and tables: "muon 0.02"
  std::string config_hash;  // of the effective configuration
  std::string version;      // of the program
  std::string device;
  std::int64_t model_parameters = 0;
  double target = 0;    // validation loss whose crossing is reported; 0: none
  std::string started;  // "2026-01-31T12:00:00Z"
  MetricsFields more;
};

struct MetricsLine {
  std::int64_t step = 0;     // optimizer steps done
  std::int64_t tokens = 0;   // trained on so far
  double train_seconds = 0;  // of the training clock
  std::optional<double> train_loss, val_loss;
  MetricsFields more;  // lr, gradient_norm, tokens_per_second, finite ...
  std::optional<DiagnosticsRecord> diagnostics = {};
};

std::string to_json(const MetricsHeader& header);  // without the line end
std::string to_json(const MetricsLine& line);
std::string utc_now();  // "2026-01-31T12:00:00Z"

// Appends to a file; each line reaches the system in one write, so a killed process leaves at most its last
// line torn.
class MetricsWriter {
 public:
  // A new file that begins with the header. RequestError when the file is there already.
  MetricsWriter(std::string path, const MetricsHeader& header);
  // Goes on with a file: drops a torn last line and everything from the first line with a step beyond
  // `after_step` on. A file that is missing or empty is begun anew with the header.
  static MetricsWriter resume(std::string path, const MetricsHeader& header, std::int64_t after_step);

  void write(const MetricsLine& line);  // Error when it cannot be written

 private:
  MetricsWriter(std::string path, Descriptor fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  void append(std::string line);

  std::string path_;
  Descriptor fd_;
};

struct MetricsFile {
  MetricsHeader header;
  std::vector<MetricsLine> lines;
  bool torn = false;  // the last line was not complete and is left out
};

// Throws RequestError naming file and line for anything but a torn last line, and for a file without a
// header.
MetricsFile read_metrics(const std::string& path);

}  // namespace spectrain
