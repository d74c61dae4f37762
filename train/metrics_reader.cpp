#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "train/metrics.h"

namespace spectrain {
namespace {

using nlohmann::ordered_json;

// Numbers, and the texts that stand for what JSON cannot write.
std::optional<double> real(const ordered_json& value) {
  if (value.is_number()) return value.get<double>();
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

double require_real(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  const auto value = it == object.end() ? std::nullopt : real(*it);
  if (!value) throw RequestError(fmt::format("its '{}' is missing or not a number", key));
  return *value;
}

std::int64_t require_count(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer())
    throw RequestError(fmt::format("its '{}' is missing or not a whole number", key));
  return it->get<std::int64_t>();
}

MetricsValue any_value(const ordered_json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (const auto number = real(value)) return *number;
  return value.is_string() ? value.get<std::string>() : value.dump();
}

MetricsHeader header_of(const ordered_json& object) {
  MetricsHeader header;
  if (!object.contains("run"))
    throw RequestError("it is not the header of a run (the first line has a field 'run')");
  const auto take_text = [](std::string& to, const ordered_json& value) {
    to = value.is_string() ? value.get<std::string>() : value.dump();
  };
  for (const auto& [key, value] : object.items()) {
    if (key == "run")
      take_text(header.run, value);
    else if (key == "optimizer")
      take_text(header.optimizer, value);
    else if (key == "config_hash")
      take_text(header.config_hash, value);
    else if (key == "version")
      take_text(header.version, value);
    else if (key == "device")
      take_text(header.device, value);
    else if (key == "started")
      take_text(header.started, value);
    else if (key == "model_parameters")
      header.model_parameters = require_count(object, "model_parameters");
    else if (key == "target")
      header.target = require_real(object, "target");
    else
      header.more.emplace_back(key, any_value(value));
  }
  return header;
}

MetricsLine line_of(const ordered_json& object) {
  MetricsLine line;
  line.step = require_count(object, "step");
  line.tokens = require_count(object, "tokens");
  line.train_seconds = require_real(object, "train_seconds");
  for (const auto& [key, value] : object.items()) {
    if (key == "step" || key == "tokens" || key == "train_seconds") continue;
    if (key == "train_loss")
      line.train_loss = require_real(object, "train_loss");
    else if (key == "val_loss")
      line.val_loss = require_real(object, "val_loss");
    else if (key == "diagnostics" && value.is_object())
      line.diagnostics = diagnostics_of(value);
    else
      line.more.emplace_back(key, any_value(value));
  }
  return line;
}

}  // namespace

MetricsFile read_metrics(const std::string& path) {
  const std::string text = read_text_file(path);
  MetricsFile file;
  std::size_t begin = 0;
  for (std::int64_t number = 1; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const bool last = end + 1 >= text.size();
    try {
      const auto at = [&](std::size_t i) { return text.begin() + static_cast<std::ptrdiff_t>(i); };
      const ordered_json object = ordered_json::parse(at(begin), at(end), nullptr, false);
      if (!object.is_object()) {
        if (last && number > 1) {
          file.torn = true;
          break;
        }
        throw RequestError("it is not a JSON object");
      }
      if (number == 1)
        file.header = header_of(object);
      else
        file.lines.push_back(line_of(object));
    } catch (const RequestError& e) {
      throw RequestError(fmt::format("{}:{}: {}", path, number, e.what()));
    }
    begin = end + 1;
  }
  if (text.empty()) throw RequestError(fmt::format("{} is empty: no run has written into it", path));
  return file;
}

}  // namespace spectrain
