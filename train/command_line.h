#pragma once

namespace spectrain {

// Reads the command line, runs the subcommand it names and returns the exit code. A command line that is
// wrong gives one sentence on standard error and 2; what the subcommand throws passes through.
int run_command_line(int argc, const char* const* argv);

}  // namespace spectrain
