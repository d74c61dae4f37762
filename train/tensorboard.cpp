#include "train/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "kernels/error.h"

namespace spectrain {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kCrcTable = crc_table();

template <class T>
void add_little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xff);
}

// One message of protocol buffers: fields as tag (number << 3 | kind) and value.
class Message {
 public:
  Message& integer(int field, std::uint64_t value) {
    tag(field, 0);
    varint(value);
    return *this;
  }
  Message& real(int field, double value) {
    tag(field, 1);
    add_little_endian(bytes_, std::bit_cast<std::uint64_t>(value));
    return *this;
  }
  Message& single(int field, float value) {
    tag(field, 5);
    add_little_endian(bytes_, std::bit_cast<std::uint32_t>(value));
    return *this;
  }
  Message& text(int field, std::string_view value) {
    tag(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, int kind) { varint(static_cast<std::uint64_t>(field << 3 | kind)); }
  void varint(std::uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>((value & 127) | 128);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

// Fields of event.proto and summary.proto.
namespace event {
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
namespace summary {
constexpr int kValue = 1, kTag = 1, kSimpleValue = 2;
}
namespace session_log {
constexpr int kStatus = 1;
constexpr std::uint64_t kStart = 1;
}  // namespace session_log

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Message event_now(std::int64_t step) {
  Message m;
  m.real(event::kWallTime, wall_time());
  m.integer(event::kStep, static_cast<std::uint64_t>(step));
  return m;
}

void add_scalar(Message& values, std::string_view tag, double value) {
  Message scalar;
  scalar.text(summary::kTag, tag).single(summary::kSimpleValue, static_cast<float>(value));
  values.text(summary::kValue, scalar.bytes());
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] != '\0' ? name.data() : "localhost";
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

std::uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

TensorboardWriter::TensorboardWriter(const std::string& directory, std::int64_t first_step) {
  const auto seconds = static_cast<std::int64_t>(wall_time());
  for (int n = 0; fd_.get() < 0; ++n) {
    path_ =
        fmt::format("{}/events.out.tfevents.{:010}.{}.{}.{}", directory, seconds, host_name(), getpid(), n);
    fd_ = Descriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
    if (fd_.get() < 0 && errno != EEXIST)
      throw Error(fmt::format("cannot create {}: {}", path_, std::strerror(errno)));
  }
  Message version;
  version.real(event::kWallTime, wall_time()).text(event::kFileVersion, "brain.Event:2");
  record(version.bytes());
  if (first_step <= 0) return;
  Message restart = event_now(first_step + 1), status;
  status.integer(session_log::kStatus, session_log::kStart);
  restart.text(event::kSessionLog, status.bytes());
  record(restart.bytes());
}

void TensorboardWriter::write(const MetricsLine& line) {
  Message values;
  if (line.train_loss) add_scalar(values, "loss/train", *line.train_loss);
  if (line.val_loss) add_scalar(values, "loss/validation", *line.val_loss);
  for (const auto& [name, value] : line.more) {
    if (const auto* real = std::get_if<double>(&value)) add_scalar(values, name, *real);
    if (const auto* count = std::get_if<std::int64_t>(&value))
      add_scalar(values, name, static_cast<double>(*count));
  }
  Message event = event_now(line.step);
  event.text(event::kSummary, values.bytes());
  record(event.bytes());
}

// In one write: a killed process leaves at most its last record torn, which readers leave out.
void TensorboardWriter::record(const std::string& event) {
  std::string length, out;
  add_little_endian(length, static_cast<std::uint64_t>(event.size()));
  out = length;
  add_little_endian(out, masked_crc32c(length));
  out += event;
  add_little_endian(out, masked_crc32c(event));
  write_all(fd_.get(), out.data(), out.size(), path_);
}

}  // namespace spectrain
