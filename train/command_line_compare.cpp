#include "train/command_line_compare.h"

// The parts of CLI11 that an application is made of; all of it is in command_line.cpp.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>
#include <string>

#include "train/command_compare.h"

namespace spectrain {

void add_compare(CLI::App& app, std::function<int()>& run) {
  CLI::App* command = app.add_subcommand("compare", "Tune and compare optimizers by a plan of many runs");
  const auto request = std::make_shared<CompareRequest>();
  command->add_option("plan", request->plan, "A YAML file: a base configuration, variants, grids, seeds")
      ->type_name("PLAN")
      ->required();
  auto* dry = command->add_flag("--dry-run", request->dry_run, "List the runs and start none");
  command->add_flag("--report-only", request->report_only, "Write the report of the runs that are finished")
      ->excludes(dry);
  command->footer(
      "A finished run is never trained again: the same command goes on after an interruption, and after the\n"
      "plan has got more variants, values or seeds.\n\nExamples:\n"
      "  spectrain compare configs/compare/cpu-small.yaml --dry-run\n"
      "  spectrain compare configs/compare/cpu-small.yaml");
  command->callback([=, &run] { run = [=] { return run_compare(*request); }; });
}

}  // namespace spectrain
