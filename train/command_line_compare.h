#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace spectrain {

// Adds the command `compare`; when it is chosen, `run` becomes what it does.
void add_compare(CLI::App& app, std::function<int()>& run);

}  // namespace spectrain
