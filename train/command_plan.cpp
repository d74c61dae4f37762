#include <cstdio>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/command_plan_tables.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/session.h"

namespace spectrain {

int run_plan(const PlanRequest& request) {
  std::string text;
  if (request.keys) text = key_reference();
  if (!request.config.empty()) {
    const RunConfig config = load_config(request.config, request.overrides, ConfigUse::model);
    const std::unique_ptr<Backend> backend =
        make_backend(config.compute);  // asked for sizes, holds no tensor
    text += plan_report(config, *backend);
    text += "\nEffective configuration\n\n" + to_yaml(config, true);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace spectrain
