#include "train/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace spectrain {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;  // the library writes the shortest text that reads back as the same double
}

void add(ordered_json& object, const MetricsFields& fields) {
  for (const auto& [name, value] : fields) {
    if (const auto* real = std::get_if<double>(&value))
      object[name] = number(*real);
    else
      std::visit([&, &key = name](const auto& v) { object[key] = v; }, value);
  }
}

std::string text_of(const ordered_json& object) {
  // A broken byte in a name must not end a run: it is replaced.
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

// Bytes at the front of the file that are whole lines of steps up to `after_step`.
std::size_t bytes_to_keep(const std::string& text, std::int64_t after_step) {
  std::size_t kept = 0;
  for (std::size_t end; (end = text.find('\n', kept)) != std::string::npos; kept = end + 1) {
    const auto line = ordered_json::parse(text.begin() + static_cast<std::ptrdiff_t>(kept),
                                          text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!line.is_object()) break;
    const auto step = line.find("step");
    if (step != line.end() && step->is_number_integer() && step->get<std::int64_t>() > after_step) break;
  }
  return kept;
}

}  // namespace

std::string to_json(const MetricsHeader& header) {
  ordered_json object = {{"run", header.run},
                         {"optimizer", header.optimizer},
                         {"config_hash", header.config_hash},
                         {"version", header.version},
                         {"device", header.device},
                         {"model_parameters", header.model_parameters},
                         {"target", number(header.target)},
                         {"started", header.started}};
  add(object, header.more);
  return text_of(object);
}

std::string to_json(const MetricsLine& line) {
  ordered_json object = {
      {"step", line.step}, {"tokens", line.tokens}, {"train_seconds", number(line.train_seconds)}};
  if (line.train_loss) object["train_loss"] = number(*line.train_loss);
  if (line.val_loss) object["val_loss"] = number(*line.val_loss);
  add(object, line.more);
  if (line.diagnostics) object["diagnostics"] = to_json(*line.diagnostics);
  return text_of(object);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

MetricsWriter::MetricsWriter(std::string path, const MetricsHeader& header) : path_(std::move(path)) {
  fd_ = Descriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666));
  if (fd_.get() < 0 && errno == EEXIST)
    throw RequestError(fmt::format("{} is there already; resume the run or choose another name", path_));
  if (fd_.get() < 0) throw Error(fmt::format("cannot create {}: {}", path_, std::strerror(errno)));
  append(to_json(header));
}

MetricsWriter MetricsWriter::resume(std::string path, const MetricsHeader& header, std::int64_t after_step) {
  if (!std::filesystem::exists(path)) return {std::move(path), header};
  const std::size_t kept = bytes_to_keep(read_text_file(path), after_step);
  Descriptor fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (fd.get() < 0 || ::ftruncate(fd.get(), static_cast<off_t>(kept)) != 0)
    throw Error(fmt::format("cannot go on with {}: {}", path, std::strerror(errno)));
  MetricsWriter writer(std::move(path), std::move(fd));
  if (kept == 0) writer.append(to_json(header));
  return writer;
}

void MetricsWriter::write(const MetricsLine& line) { append(to_json(line)); }

void MetricsWriter::append(std::string line) {
  line.push_back('\n');
  write_all(fd_.get(), line.data(), line.size(), path_);
}

}  // namespace spectrain
