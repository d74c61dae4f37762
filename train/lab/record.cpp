#include "train/lab/record.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace spectrain::lab {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

double number_of(const ordered_json& json) {
  if (json.is_number()) return json.get<double>();
  const std::string word = json.get<std::string>();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return word == "inf" ? kInfinity : word == "-inf" ? -kInfinity : std::numeric_limits<double>::quiet_NaN();
}

ordered_json checks_json(const ClaimResult& claim) {
  ordered_json out = ordered_json::array();
  for (const Check& c : claim.checks)
    out.push_back({{"statement", c.statement}, {"measured", c.measured}, {"holds", c.holds}});
  return out;
}

ordered_json measurements_json(const Outcome& outcome) {
  ordered_json out = ordered_json::array();
  for (const Measurement& m : outcome.measurements)
    out.push_back({{"name", m.name},
                   {"value", number(m.value)},
                   {"spread", number(m.spread)},
                   {"seeds", m.seeds},
                   {"expected", m.expected ? number(*m.expected) : ordered_json()},
                   {"expected_from", m.expected_from},
                   {"unit", m.unit}});
  return out;
}

ordered_json claim_json(const ClaimResult& c) {
  return {{"claim", c.claim.id},          {"source", c.claim.source},
          {"sentence", c.claim.sentence}, {"refuted_by", c.claim.refuted_by},
          {"remark", c.claim.remark},     {"checks", checks_json(c)}};
}

ordered_json numbers_json(const std::vector<double>& values) {
  ordered_json out = ordered_json::array();
  for (const double value : values) out.push_back(number(value));
  return out;
}

ordered_json picture_json(const Picture& p) {
  ordered_json series = ordered_json::array();
  for (const Series& s : p.series)
    series.push_back({{"name", s.name}, {"x", numbers_json(s.x)}, {"y", numbers_json(s.y)}});
  return {{"title", p.title}, {"x_label", p.x_label}, {"y_label", p.y_label},
          {"log_x", p.log_x}, {"log_y", p.log_y},     {"series", series}};
}

std::string line_of(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

// ------------------------------------------------------------------------------------------------- and back

ClaimResult claim_of(const ordered_json& json) {
  ClaimResult out;
  out.claim = {json.at("claim"), json.at("source"), json.at("sentence"), json.at("refuted_by"),
               json.at("remark")};
  for (const ordered_json& c : json.at("checks"))
    out.checks.push_back({c.at("statement"), c.at("measured"), c.at("holds")});
  return out;
}

Measurement measurement_of(const ordered_json& json) {
  Measurement m;
  m.name = json.at("name");
  m.value = number_of(json.at("value"));
  m.spread = number_of(json.at("spread"));
  m.seeds = json.at("seeds");
  if (!json.at("expected").is_null()) m.expected = number_of(json.at("expected"));
  m.expected_from = json.at("expected_from");
  m.unit = json.at("unit");
  return m;
}

std::vector<double> numbers_of(const ordered_json& json) {
  std::vector<double> out;
  for (const ordered_json& value : json) out.push_back(number_of(value));
  return out;
}

Picture picture_of(const ordered_json& json) {
  Picture p;
  p.title = json.at("title");
  p.x_label = json.at("x_label");
  p.y_label = json.at("y_label");
  p.log_x = json.at("log_x");
  p.log_y = json.at("log_y");
  for (const ordered_json& s : json.at("series"))
    p.series.push_back({s.at("name"), numbers_of(s.at("x")), numbers_of(s.at("y"))});
  return p;
}

ExperimentRecord parsed(const ordered_json& json) {
  ExperimentRecord r;
  r.id = json.at("id");
  r.experiment = json.at("experiment");
  r.title = json.at("title");
  r.file = json.at("file");
  r.not_run = json.at("not_run");
  for (const ordered_json& c : json.at("claims")) r.outcome.claims.push_back(claim_of(c));
  for (const ordered_json& m : json.at("measurements")) r.outcome.measurements.push_back(measurement_of(m));
  for (const ordered_json& p : json.at("pictures")) r.outcome.pictures.push_back(picture_of(p));
  r.outcome.notes = json.at("notes").get<std::vector<std::string>>();
  r.changed = json.at("options").get<std::vector<std::string>>();
  r.quick = json.at("quick");
  r.seed = json.at("seed");
  r.seconds = number_of(json.at("seconds"));
  r.version = json.at("version");
  r.device = json.at("device");
  r.finished = json.at("finished");
  // A verdict without a check would be one without a number.
  if (r.not_run.empty())
    for (const ClaimResult& c : r.outcome.claims) c.verdict();
  return r;
}

// Behind what is peculiar to an experiment or to a claim.
void add_circumstances(ordered_json& json, const ExperimentRecord& r) {
  json["measurements"] = measurements_json(r.outcome);
  json["notes"] = r.outcome.notes;
  json["options"] = r.changed;
  json["quick"] = r.quick;
  json["seed"] = r.seed;
  json["seconds"] = number(r.seconds);
  json["version"] = r.version;
  json["device"] = r.device;
  json["finished"] = r.finished;
}

}  // namespace

std::string_view verdict_words(const ExperimentRecord& record, const ClaimResult& claim) {
  return record.not_run.empty() ? words_of(claim.verdict()) : kNotRun;
}

std::string to_text(const ExperimentRecord& record) {
  ordered_json claims = ordered_json::array(), pictures = ordered_json::array();
  for (const ClaimResult& c : record.outcome.claims) claims.push_back(claim_json(c));
  for (const Picture& p : record.outcome.pictures) pictures.push_back(picture_json(p));
  ordered_json json = {{"id", record.id},     {"experiment", record.experiment}, {"title", record.title},
                       {"file", record.file}, {"not_run", record.not_run},       {"claims", claims}};
  add_circumstances(json, record);
  json["pictures"] = pictures;
  return line_of(json);
}

ExperimentRecord record_of(const std::string& text, const std::string& path) {
  try {
    return parsed(ordered_json::parse(text));
  } catch (const std::exception& e) {  // of the JSON library, or a claim without checks
    throw Error(fmt::format("{} is no record of an experiment ({}); delete it and run the experiment again",
                            path, e.what()));
  }
}

std::string claim_lines(const ExperimentRecord& record) {
  std::string text;
  for (const ClaimResult& c : record.outcome.claims) {
    ordered_json json = {{"id", record.id}, {"experiment", record.experiment}};
    const ordered_json claim = claim_json(c);
    for (const auto& [key, value] : claim.items())
      if (key != "checks") json[key] = value;
    json["verdict"] = verdict_words(record, c);
    json["not_run"] = record.not_run.empty() ? ordered_json() : ordered_json(record.not_run);
    json["checks"] = claim["checks"];
    add_circumstances(json, record);
    text += line_of(json);
  }
  return text;
}

}  // namespace spectrain::lab
