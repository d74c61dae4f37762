#include "train/diagnostics_record.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"

namespace spectrain {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

ordered_json numbers(const std::vector<double>& values) {
  ordered_json list = ordered_json::array();
  for (const double v : values) list.push_back(number(v));
  return list;
}

double real(const ordered_json& value) {
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  if (value == "-inf") return -std::numeric_limits<double>::infinity();
  return value.get<double>();
}

std::vector<double> reals(const ordered_json& list) {
  std::vector<double> values;
  for (const ordered_json& v : list) values.push_back(real(v));
  return values;
}

GroupMeasurement group_of(const ordered_json& g) {
  return {g.at("parameters").get<std::string>(),
          g.at("rule").get<std::string>(),
          real(g.at("weight_norm")),
          real(g.at("gradient_norm")),
          real(g.at("update_norm")),
          real(g.at("update_to_weight")),
          real(g.at("cosine"))};
}

SpectrumMeasurement spectrum_of(const ordered_json& s) {
  return {s.at("matrix").get<std::string>(),
          s.at("of").get<std::string>(),
          s.at("rows").get<std::int64_t>(),
          s.at("cols").get<std::int64_t>(),
          real(s.at("norm")),
          real(s.at("stable_rank")),
          real(s.at("effective_rank")),
          reals(s.at("singular_values"))};
}

DecileMeasurement deciles_of(const ordered_json& d) {
  return {d.at("counted").get<std::int64_t>(), reals(d.at("loss")),
          d.at("targets").get<std::vector<std::int64_t>>(), d.at("types").get<std::vector<std::int64_t>>()};
}

}  // namespace

ordered_json to_json(const DiagnosticsRecord& record) {
  ordered_json object = ordered_json::object();
  for (const GroupMeasurement& g : record.groups)
    object["groups"].push_back({{"parameters", g.parameters},
                                {"rule", g.rule},
                                {"weight_norm", number(g.weight_norm)},
                                {"gradient_norm", number(g.gradient_norm)},
                                {"update_norm", number(g.update_norm)},
                                {"update_to_weight", number(g.update_to_weight)},
                                {"cosine", number(g.cosine)}});
  for (const SpectrumMeasurement& s : record.spectra)
    object["spectra"].push_back({{"matrix", s.matrix},
                                 {"of", s.of},
                                 {"rows", s.rows},
                                 {"cols", s.cols},
                                 {"norm", number(s.norm)},
                                 {"stable_rank", number(s.stable_rank)},
                                 {"effective_rank", number(s.effective_rank)},
                                 {"singular_values", numbers(s.singular_values)}});
  if (const auto& d = record.deciles)
    object["deciles"] = {
        {"counted", d->counted}, {"loss", numbers(d->loss)}, {"targets", d->targets}, {"types", d->types}};
  return object;
}

DiagnosticsRecord diagnostics_of(const ordered_json& object) {
  try {
    DiagnosticsRecord record;
    if (const auto it = object.find("groups"); it != object.end())
      for (const ordered_json& g : *it) record.groups.push_back(group_of(g));
    if (const auto it = object.find("spectra"); it != object.end())
      for (const ordered_json& s : *it) record.spectra.push_back(spectrum_of(s));
    if (const auto it = object.find("deciles"); it != object.end()) record.deciles = deciles_of(*it);
    return record;
  } catch (const ordered_json::exception& e) {
    throw RequestError(fmt::format("its 'diagnostics' are not those of a run ({})", e.what()));
  }
}

}  // namespace spectrain
