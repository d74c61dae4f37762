#include "kernels/cuda/product_plans.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/error.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "spectrain-plan-1";

std::uint32_t alignment(const void* p) {
  const auto bits = reinterpret_cast<std::uintptr_t>(p);
  std::uint32_t bytes = 16;
  while (bits % bytes != 0) bytes /= 2;
  return bytes;
}

// FNV-1a (Fowler, Noll, Vo): enough to notice a line that was cut or changed.
std::uint64_t checksum(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// Fields are separated by tabs, lines by newlines: neither may be inside one.
std::string one_field(std::string_view text) {
  std::string field(text);
  std::replace_if(
      field.begin(), field.end(), [](char c) { return c == '\t' || c == '\n' || c == '\r'; }, ' ');
  return field;
}

std::string line_of(const std::string& machine, const std::string& product, const ProductPlan& plan) {
  std::string words;
  for (const std::uint64_t word : plan) words += fmt::format("{:016x}", word);
  const std::string text = fmt::format("{}\t{}\t{}\t{}", kFormat, machine, product, words);
  return fmt::format("{}\t{:016x}", text, checksum(text));
}

struct Line {
  std::string_view machine, product;
  ProductPlan plan;
};

bool parse_hex(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc{} && end == text.data() + text.size();
}

std::optional<Line> parse(std::string_view text) {
  std::array<std::string_view, 5> fields;
  std::string_view rest = text;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::size_t tab = rest.find('\t');
    if ((tab == std::string_view::npos) != (i + 1 == fields.size())) return std::nullopt;
    fields[i] = rest.substr(0, tab);
    if (tab != std::string_view::npos) rest.remove_prefix(tab + 1);
  }
  Line line{fields[1], fields[2], {}};
  std::uint64_t sum = 0;
  if (fields[0] != kFormat || fields[3].size() != 16 * line.plan.size() || fields[4].size() != 16)
    return std::nullopt;
  if (!parse_hex(fields[4], sum) || sum != checksum(text.substr(0, text.size() - 17))) return std::nullopt;
  for (std::size_t i = 0; i < line.plan.size(); ++i)
    if (!parse_hex(fields[3].substr(16 * i, 16), line.plan[i])) return std::nullopt;
  return line;
}

// One process at a time between reading the file and renaming the new one into its place. The lock is a file
// beside it, for the file itself is replaced. Where locks do not exist (some network file systems) the file
// stays whole all the same, and a plan settled at the same moment may be lost.
class Locked {
 public:
  explicit Locked(const std::string& path)
      : file_(open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (file_ >= 0)
      while (flock(file_, LOCK_EX) != 0 && errno == EINTR) {
      }
  }
  ~Locked() {
    if (file_ >= 0) close(file_);
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  bool made() const { return file_ >= 0; }

 private:
  int file_;
};

}  // namespace

ProductKey::ProductKey(const Product& p)
    : batch(p.batch),
      m(p.m),
      n(p.n),
      k(p.k),
      transpose_a(p.transpose_a),
      transpose_b(p.transpose_b),
      factors(p.factors),
      result(p.result),
      eight_bits(p.eight_bits),
      bias(p.bias != nullptr),
      gelu_tanh(p.gelu_tanh),
      pre(p.pre != nullptr),
      slope(p.slope_at != nullptr),
      align_a(alignment(p.a)),
      align_b(alignment(p.b)),
      align_c(alignment(p.c)) {}

std::string ProductKey::text() const {
  const auto matrix = [](std::int64_t rows, std::int64_t cols, bool transposed) {
    return transposed ? fmt::format("[{}, {}]^T", cols, rows) : fmt::format("[{}, {}]", rows, cols);
  };
  const auto format = [](Fp8 f) { return f == Fp8::e4m3 ? "e4m3" : "e5m2"; };
  const std::string from = eight_bits ? fmt::format("{} and {}", format(eight_bits->a), format(eight_bits->b))
                                      : std::string(name_of(factors));
  return fmt::format("{}{} . {}, {} to {}{}{}{}{}{}, aligned {} {} {}",
                     batch == 1 ? "" : fmt::format("{} x ", batch), matrix(m, k, transpose_a),
                     matrix(k, n, transpose_b), from, name_of(result), bias ? ", bias" : "",
                     gelu_tanh ? ", gelu_tanh" : "", pre ? ", pre" : "", slope ? ", slope" : "",
                     eight_bits && eight_bits->fast_sums ? ", fast sums" : "", align_a, align_b, align_c);
}

PlanFile::PlanFile(std::string path, std::string_view machine)
    : path_(std::move(path)), machine_(one_field(machine)) {
  std::error_code ignored;
  fs::create_directories(fs::path(path_).parent_path(), ignored);
  const Locked lock(path_);
  writable_ = lock.made() && !fs::is_directory(path_, ignored);
  read();
}

void PlanFile::read() {
  others_.clear();
  std::ifstream file(path_);
  for (std::string text; std::getline(file, text);) {
    const std::optional<Line> line = parse(text);
    if (!line) continue;
    if (line->machine == machine_)
      plans_.insert_or_assign(std::string(line->product), line->plan);
    else
      others_.push_back(text);
  }
}

std::optional<ProductPlan> PlanFile::find(const std::string& product) const {
  const auto it = plans_.find(one_field(product));
  if (it == plans_.end()) return std::nullopt;
  return it->second;
}

ProductPlan PlanFile::settle(const std::string& product, const ProductPlan& chosen) {
  const std::string name = one_field(product);
  if (!writable_) return plans_.emplace(name, chosen).first->second;
  const Locked lock(path_);
  read();  // what others settled since
  const auto [it, is_new] = plans_.emplace(name, chosen);
  if (is_new) write();
  return it->second;
}

void PlanFile::write() const {
  static std::atomic<int> number{0};
  const std::string temporary = fmt::format("{}.{}.{}", path_, getpid(), number++);
  {
    std::ofstream file(temporary, std::ios::trunc);
    for (const std::string& line : others_) file << line << '\n';
    for (const auto& [product, plan] : plans_) file << line_of(machine_, product, plan) << '\n';
    file.flush();
    if (file && std::rename(temporary.c_str(), path_.c_str()) == 0) return;
  }
  const std::string reason = std::strerror(errno);
  std::remove(temporary.c_str());
  throw Error(fmt::format("the file of plans for matrix products {} cannot be written: {}", path_, reason));
}

}  // namespace spectrain
