#include <cstdio>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/command_plan_ranks.h"
#include "train/command_plan_tables.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/session.h"

namespace spectrain {

namespace {

Fabric fabric_of(const PlanRequest& request) {
  Fabric fabric;
  if (request.tflops > 0) fabric.tflops = request.tflops;
  if (request.link > 0) fabric.link = request.link;
  if (request.node_link > 0) fabric.node_link = request.node_link;
  return fabric;
}

}  // namespace

int run_plan(const PlanRequest& request) {
  std::string text;
  if (request.keys) text = key_reference();
  if (!request.config.empty()) {
    const RunConfig config = load_config(request.config, request.overrides, ConfigUse::model);
    const std::unique_ptr<Backend> backend =
        make_backend(config.compute);  // asked for sizes, holds no tensor
    if (request.json) {
      text += ranks_json(config, request.ranks);
    } else {
      text += plan_report(config, *backend);
      if (request.ranks > 0) text += ranks_report(config, request.ranks, fabric_of(request));
    }
    if (!request.json) text += "\nEffective configuration\n\n" + to_yaml(config, true);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace spectrain
