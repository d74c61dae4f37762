#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "fmt/format.h"

// Options that several commands have. Only the command_line_*.cpp pay for CLI11's headers.

namespace spectrain {

// CLI11's own checks name the largest double as the other end of the range.
inline CLI::Validator number(bool zero_allowed) {
  const auto check = [zero_allowed](std::string& text) {
    double value = 0;
    const bool good = CLI::detail::lexical_cast(text, value) && (value > 0 || (zero_allowed && value == 0));
    return good ? std::string() : fmt::format("{} is not a number {} 0", text, zero_allowed ? ">=" : ">");
  };
  return CLI::Validator(check, "");
}

template <class T>
CLI::Option* add_count(CLI::App& command, const char* name, T& field, const char* meaning) {
  return command.add_option(name, field, meaning)
      ->check(number(false))
      ->type_name("N")
      ->capture_default_str();
}

}  // namespace spectrain
