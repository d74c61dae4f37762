#include "train/command_line.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <iostream>
#include <memory>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/command_line_compare.h"
#include "train/command_line_data.h"
#include "train/command_line_lab.h"
#include "train/command_line_options.h"
#include "train/commands.h"
#include "train/preset.h"
#include "train/suggestion.h"
#include "version.h"

namespace spectrain {
namespace {

using Run = std::function<int()>;  // what the parsed command line asks for

constexpr const char* kWhere = "Where it runs";
constexpr const char* kConfiguration = "Configuration";

// Options that change the configuration, in the order they are applied.
struct Overrides {
  std::vector<std::string> set;
  std::string device, precision;
  int threads = -1;

  std::vector<std::string> all() const {
    std::vector<std::string> out = set;
    if (!device.empty()) out.push_back("compute.device=" + device);
    if (!precision.empty()) out.push_back("compute.precision=" + precision);
    if (threads >= 0) out.push_back(fmt::format("compute.threads={}", threads));
    return out;
  }
};

void add_set(CLI::App& command, Overrides& o) {
  command.add_option("--set", o.set, "Give a key of the configuration another value; repeatable")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->group(kConfiguration);
}

void add_where(CLI::App& command, Overrides& o) {
  command.add_option("--device", o.device, "cpu, cuda or auto (a GPU where there is one)")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->type_name("NAME")
      ->group(kWhere);
  command.add_option("--threads", o.threads, "CPU threads; 0: all cores this process may use")
      ->check(CLI::Range(0, 4096))
      ->type_name("N")
      ->group(kWhere);
  command.add_option("--precision", o.precision, "f32 or bf16, of activations and products")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE")
      ->group(kWhere);
}

CLI::Option* add_config(CLI::App& command, std::string& config) {
  return command.add_option("config", config, "A YAML file, or the name of one in configs/")
      ->type_name("CONFIG")
      ->group(kConfiguration);
}

void add_processes(CLI::App& command, TrainRequest& request) {
  CLI::Option* ranks =
      command
          .add_option("--ranks", request.ranks,
                      "Processes on this machine's CPU, which share its cores (needs Open MPI)")
          ->check(CLI::Range(1, 1024))
          ->type_name("N")
          ->group(kWhere);
  command.add_option("--gpus", request.gpus, "Processes with one GPU each")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->excludes(ranks)
      ->group(kWhere);
}

void add_train(CLI::App& app, Run& run, std::vector<std::string> arguments) {
  CLI::App* command = app.add_subcommand("train", "Train a model");
  const auto request = std::make_shared<TrainRequest>();
  request->arguments = std::move(arguments);
  const auto overrides = std::make_shared<Overrides>();
  add_config(*command, request->config)->required();
  add_set(*command, *overrides);
  add_where(*command, *overrides);
  add_processes(*command, *request);
  auto* resume =
      command->add_flag("--resume", request->resume, "Go on from the run's newest complete checkpoint");
  command->add_flag("--force", request->force, "Begin anew; a run of that name is kept as <name>.old-1, ...")
      ->excludes(resume);
  command->add_flag(
      "--speedrun", request->speedrun,
      "Time the run as the records are: untimed warm-up, 10,485,760 validation tokens, speedrun.log");
  command->footer(
      "Ctrl-C finishes the step, saves a checkpoint and exits with 0.\n\nExamples:\n"
      "  spectrain train configs/quickstart.yaml\n"
      "  spectrain train configs/quickstart.yaml --set optimizer.0.lr=0.01 --set run.name=slower\n"
      "  spectrain train configs/quickstart.yaml --ranks 2\n"
      "  spectrain train configs/quickstart.yaml --resume");
  command->callback([=, &run] {
    run = [=] {
      request->config = find_configuration(request->config);
      request->overrides = overrides->all();
      return run_train(*request);
    };
  });
}

void add_eval(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("eval", "Measure the validation loss of a checkpoint");
  const auto request = std::make_shared<EvalRequest>();
  const auto overrides = std::make_shared<Overrides>();
  auto* config = add_config(*command, request->config);
  command->add_option("--checkpoint", request->checkpoint, "A checkpoint or run directory, instead of CONFIG")
      ->type_name("DIR")
      ->excludes(config)
      ->group(kConfiguration);
  command->add_option("--data", request->data, "Token shards; without it those of the configuration")
      ->type_name("FILE");
  add_count(*command, "--tokens", request->tokens, "How many; without it train.validate.tokens")
      ->default_str("");
  add_set(*command, *overrides);
  add_where(*command, *overrides);
  command->footer(
      "Examples:\n"
      "  spectrain eval configs/quickstart.yaml\n"
      "  spectrain eval --checkpoint runs/quickstart-muon --data corpus/train_000000.bin --tokens 65536");
  command->callback([=, &run] {
    run = [=] {
      if (request->config.empty() && request->checkpoint.empty())
        throw RequestError("eval needs a configuration or --checkpoint DIR; see 'spectrain eval --help'");
      if (!request->config.empty()) request->config = find_configuration(request->config);
      request->overrides = overrides->all();
      return run_eval(*request);
    };
  });
}

void add_sample(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("sample", "Let a checkpoint continue a text");
  const auto request = std::make_shared<SampleRequest>();
  const auto overrides = std::make_shared<Overrides>();
  command->add_option("--checkpoint", request->checkpoint, "A checkpoint or run directory")
      ->type_name("DIR")
      ->required();
  command->add_option("--prompt", request->prompt, "The text to continue; without it a new document begins")
      ->type_name("TEXT");
  add_count(*command, "--tokens", request->tokens, "To be generated");
  command->add_option("--temperature", request->temperature, "0: always the likeliest token")
      ->check(number(true))
      ->type_name("T")
      ->capture_default_str();
  command->add_option("--top-k", request->top_k, "Choose among the k likeliest; 0: among all")
      ->check(number(true))
      ->type_name("K")
      ->capture_default_str();
  command->add_option("--seed", request->seed, "The same seed gives the same text")
      ->type_name("S")
      ->capture_default_str();
  add_set(*command, *overrides);
  add_where(*command, *overrides);
  command->footer(
      "Example:\n  spectrain sample --checkpoint runs/quickstart-muon --prompt '#include <' --top-k 40");
  command->callback([=, &run] {
    run = [=] {
      request->overrides = overrides->all();
      return run_sample(*request);
    };
  });
}

void add_plan(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("plan", "Show what a run would do and need, without starting it");
  const auto request = std::make_shared<PlanRequest>();
  const auto overrides = std::make_shared<Overrides>();
  add_config(*command, request->config);
  add_set(*command, *overrides);
  command->add_flag("--keys", request->keys, "Print every configuration key: default, type, range, meaning")
      ->group(kConfiguration);
  add_where(*command, *overrides);
  const char* ranks = "Many ranks";
  command
      ->add_option("--ranks", request->ranks,
                   "Who would own what, what is sent, and a prediction to 1024 GPUs")
      ->option_text("N")
      ->check(CLI::Range(1, 1024))
      ->group(ranks);
  command->add_option("--tflops", request->tflops, "Matrix products of one GPU, TFLOP/s, for the prediction")
      ->option_text("X=400")
      ->check(number(false))
      ->group(ranks);
  command->add_option("--node-link", request->node_link, "GB/s out of a GPU to others of its host")
      ->option_text("X=300")
      ->check(number(false))
      ->group(ranks);
  command->add_option("--link", request->link, "GB/s out of a GPU to other hosts")
      ->option_text("X=45")
      ->check(number(false))
      ->group(ranks);
  command->add_flag("--json", request->json, "With --ranks: that alone, as one JSON object")->group(ranks);
  command->footer(
      "Examples:\n"
      "  spectrain plan gpt2-124m\n"
      "  spectrain plan gpt2-124m --ranks 8\n"
      "  spectrain plan configs/quickstart.yaml --set batch.micro_batch=8\n"
      "  spectrain plan --keys");
  command->callback([=, &run] {
    run = [=] {
      if (request->config.empty() && !request->keys)
        throw RequestError("plan needs a configuration, or --keys; see 'spectrain plan --help'");
      if (request->json && (request->ranks == 0 || request->keys))
        throw RequestError("plan --json is for --ranks N; see 'spectrain plan --help'");
      if (!request->config.empty()) request->config = find_configuration(request->config);
      request->overrides = overrides->all();
      return run_plan(*request);
    };
  });
}

void add_bench(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("bench", "Time training steps of a model on random tokens");
  const auto request = std::make_shared<BenchRequest>();
  const auto overrides = std::make_shared<Overrides>();
  add_config(*command, request->config)->required();
  add_count(*command, "--batch", request->batch,
            "Sequences per step; without it the configuration's micro-batch")
      ->default_str("");
  add_count(*command, "--context", request->context, "Tokens per sequence; without it the configuration's")
      ->default_str("");
  add_count(*command, "--steps", request->steps, "Timed steps, after one that is not timed");
  command->add_flag("--profile", request->profile,
                    "Also the time of each kind of kernel in a step, next to the least it could take");
  command->add_flag("--json", request->json, "One JSON object instead of a table");
  add_set(*command, *overrides);
  add_where(*command, *overrides);
  command->footer("Example:\n  spectrain bench gpt2-124m --batch 4 --context 1024 --precision bf16");
  command->callback([=, &run] {
    run = [=] {
      request->config = find_configuration(request->config);
      request->overrides = overrides->all();
      return run_bench(*request);
    };
  });
}

// Of the chart of characters, or of the picture: an option of the one says nothing about the other.
void add_plot_looks(CLI::App& command, PlotRequest& request, CLI::Option* out) {
  const char* const terminal = "Chart of characters";
  const char* const picture = "Picture";
  command.add_option("--width", request.width, "Columns; without it those of the terminal")
      ->check(CLI::Range(20, 1000))
      ->type_name("N")
      ->excludes(out)
      ->group(terminal);
  command.add_option("--height", request.height, "Lines; without it those of the terminal")
      ->check(CLI::Range(5, 500))
      ->type_name("N")
      ->excludes(out)
      ->group(terminal);
  command.add_flag("--ascii", request.ascii, "No other characters than ASCII's")
      ->excludes(out)
      ->group(terminal);
  command.add_flag("--log-x", request.log_x, "Logarithmic x axis")->needs(out)->group(picture);
  command.add_option("--title", request.title, "Above the picture; without it made from the axis")
      ->type_name("TEXT")
      ->needs(out)
      ->group(picture);
}

void add_plot(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("plot", "Draw and compare the losses of runs");
  const auto request = std::make_shared<PlotRequest>();
  command->add_option("runs", request->runs, "Run directories or metrics.jsonl files")
      ->type_name("RUN")
      ->required();
  CLI::Option* out = command
                         ->add_option("--out", request->out,
                                      "Draw a picture, .svg or .png; without it a chart of characters")
                         ->type_name("FILE");
  const auto axis = std::make_shared<std::string>("tokens");
  command->add_option("--x", *axis, "Along the x axis: tokens, seconds (of training) or steps")
      ->check(CLI::IsMember({"tokens", "seconds", "steps"}))
      ->type_name("AXIS")
      ->capture_default_str();
  command->add_flag("--table", request->table, "The table alone, without a chart of characters");
  command
      ->add_option("--target", request->target,
                   "Validation loss: when did each run reach it? Without it the runs' train.target")
      ->check(number(false))
      ->type_name("LOSS");
  add_plot_looks(*command, *request, out);
  command->footer(
      "Examples:\n"
      "  spectrain plot runs/quickstart-muon runs/quickstart-adamw\n"
      "  spectrain plot runs/quickstart-* --table --target 4\n"
      "  spectrain plot runs/quickstart-muon runs/quickstart-adamw --x seconds --out loss.svg");
  command->callback([=, &run] {
    run = [=] {
      request->x = *axis == "seconds" ? PlotAxis::seconds
                   : *axis == "steps" ? PlotAxis::steps
                                      : PlotAxis::tokens;
      return run_plot(*request);
    };
  });
}

void add_devices(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("devices", "List the CPU and the GPUs, or say why there is no GPU");
  command->callback([&run] { run = [] { return run_devices(); }; });
}

void add_optimizers(CLI::App& app, Run& run) {
  CLI::App* command =
      app.add_subcommand("optimizers", "List the update rules with defaults, memory, FLOPs and source");
  const auto name = std::make_shared<std::string>();
  command->add_option("rule", *name, "A rule, to list its keys")->type_name("RULE");
  command->callback([=, &run] { run = [=] { return run_optimizers(*name); }; });
}

// CLI11 calls a misspelt subcommand an unexpected argument; here it is told what there is.
void check_subcommand(const CLI::App& app, int argc, const char* const* argv, int at,
                      const std::string& name) {
  if (argc <= at || argv[at][0] == '-') return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), argv[at]) == names.end())
    throw RequestError(fmt::format("unknown command \"{}\"{} ({} has: {})", argv[at],
                                   did_you_mean(argv[at], names), name, listed(names, ", ")));
  for (const char* nested : {"data", "lab"})
    if (std::string_view(argv[at]) == nested)
      check_subcommand(*app.get_subcommand(nested), argc, argv, at + 1, fmt::format("{} {}", name, nested));
}

// "spectrain data pack" of the command the arguments chose, whose --help knows more.
std::string chosen_command(const CLI::App& app) {
  std::string name = "spectrain";
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += ' ' + at->get_name();
  }
  return name;
}

}  // namespace

int run_command_line(int argc, const char* const* argv) {
  CLI::App app("Pretrains GPTs from scratch: one binary, one YAML file.", "spectrain");
  app.set_version_flag("--version", std::string("spectrain ") + SPECTRAIN_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer(
      "Each command has its own --help. Exit codes: 0 done, 1 the run failed, 2 the request was "
      "wrong.\n\nExamples:\n"
      "  spectrain plan quickstart\n"
      "  spectrain train quickstart --set optimizer.0.lr=0.01 --set run.name=try\n"
      "  spectrain plot runs/quickstart-muon runs/try\n"
      "  spectrain sample --checkpoint runs/try --prompt '#include <'");
  Run run;
  add_train(app, run, {argv + std::min(argc, 1), argv + argc});
  add_eval(app, run);
  add_sample(app, run);
  add_data(app, run);
  add_plan(app, run);
  add_bench(app, run);
  add_plot(app, run);
  add_compare(app, run);
  add_lab(app, run);
  add_optimizers(app, run);
  add_devices(app, run);

  check_subcommand(app, argc, argv, 1, "spectrain");
  if (argc < 2) {
    std::cerr << app.help();
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& e) {
    throw RequestError(fmt::format("{}; see '{} --help'", e.what(), chosen_command(app)));
  }
  return run();
}

}  // namespace spectrain
