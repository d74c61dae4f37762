#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "train/durable_file.h"
#include "train/metrics.h"

namespace spectrain {

// TensorBoard's event files: one record per line of metrics.jsonl, scalars against the step, so that
// `tensorboard --logdir runs` draws the curves.
//
// A file is a row of records, each  length [u64]  crc(length) [u32]  data [length]  crc(data) [u32], all
// little-endian, where crc is the masked CRC-32C below (TensorFlow, core/lib/io/record_writer). The data is
// an Event message of core/util/event.proto in the wire format of protocol buffers.

// CRC-32C (Castagnoli: reflected polynomial 0x82F63B78, begins and ends inverted; RFC 3720, B.4).
std::uint32_t crc32c(std::string_view bytes);
// ((crc >> 15) | (crc << 17)) + 0xa282ead8: so that the sum of bytes that hold such sums stays a good one.
std::uint32_t masked_crc32c(std::string_view bytes);

class TensorboardWriter {
 public:
  // A new file "events.out.tfevents.<seconds>.<host>.<process>.<n>" in the directory. first_step > 0: the run
  // goes on after that step, and what earlier files of the directory say about later steps is void. Throws
  // Error when it cannot be written.
  TensorboardWriter(const std::string& directory, std::int64_t first_step);

  // train_loss and val_loss as "loss/train" and "loss/validation", and every number of line.more under its
  // own name. Values become float32, which is all the format holds.
  void write(const MetricsLine& line);

  const std::string& path() const { return path_; }

 private:
  void record(const std::string& event);

  std::string path_;
  Descriptor fd_;
};

}  // namespace spectrain
