#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace spectrain {

// Adds the command `data` and its own commands; when one is chosen, `run` becomes what it does.
void add_data(CLI::App& app, std::function<int()>& run);

}  // namespace spectrain
