#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace spectrain {

// Adds the command `lab` and its subcommand `run`; when one is chosen, `run` becomes what it does.
void add_lab(CLI::App& app, std::function<int()>& run);

}  // namespace spectrain
