#pragma once

#include <exception>
#include <string>

namespace spectrain {

// What the user reads about an exception that ends the program, in one sentence without the program's name.
std::string failure_sentence(const std::exception& e);

// 2 for a RequestError, else 1.
int exit_code_of(const std::exception& e);

}  // namespace spectrain
