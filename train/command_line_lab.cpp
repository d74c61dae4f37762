#include "train/command_line_lab.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <memory>
#include <string>

#include "kernels/error.h"
#include "train/command_lab.h"

namespace spectrain {
namespace {

void add_run(CLI::App& lab, const std::shared_ptr<LabRequest>& request, std::function<int()>& run) {
  CLI::App* command = lab.add_subcommand("run", "Run experiments and judge their claims");
  auto* wanted = command
                     ->add_option("experiments", request->wanted,
                                  "Ids as 'spectrain lab' lists them, 'all', or files of your own")
                     ->type_name("EXPERIMENT");
  command->add_flag("--quick", request->quick, "A smaller form of each, done in seconds");
  command->add_option("--seed", request->seed, "The same seed gives the same numbers")
      ->type_name("S")
      ->capture_default_str();
  command->add_option("--data", request->data, "Folder with MNIST, CIFAR-10 and text")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--out", request->out, "Directory of lab.html, lab.jsonl and lab.md")
      ->type_name("DIR")
      ->capture_default_str();
  command->add_option("--device", request->device, "cpu, cuda or auto (a GPU where there is one)")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->type_name("NAME")
      ->capture_default_str();
  command
      ->add_flag("--report-only", request->report_only, "Write the report of what was measured; run nothing")
      ->excludes(wanted);
  command->footer(
      "A new run of an experiment takes the place of its earlier one in the report. Ctrl-C ends after the "
      "current\n"
      "experiment. Exit code 0: all of them ran.\n\nExamples:\n"
      "  spectrain lab run all --quick\n"
      "  spectrain lab run e4 e7 --out runs/lab\n"
      "  spectrain lab run configs/lab/e7.yaml --seed 2");
  command->callback([=, &run] {
    run = [=] {
      if (request->wanted.empty() && !request->report_only)
        throw RequestError(
            "lab run needs experiments, as in 'spectrain lab run e1' or 'spectrain lab run all'");
      return run_lab(*request);
    };
  });
}

}  // namespace

void add_lab(CLI::App& app, std::function<int()>& run) {
  CLI::App* command = app.add_subcommand("lab", "List what papers claim, or measure it");
  const auto request = std::make_shared<LabRequest>();
  command->add_option("--configs", request->configs, "Folder of the experiments; without it configs/lab")
      ->type_name("DIR");
  command->require_subcommand(0, 1);
  add_run(*command, request, run);
  command->footer("Examples:\n  spectrain lab\n  spectrain lab run all --quick\n  spectrain lab run --help");
  command->callback([=, &run] {
    if (command->get_subcommands().empty()) run = [=] { return list_lab(*request); };
  });
}

}  // namespace spectrain
