#pragma once

#include <span>
#include <string>
#include <string_view>

namespace spectrain {

// The word of `known` that somebody who wrote `word` most likely meant, "" when none is near: by edit
// distance (insert, delete, replace, swap neighbours), by initials (learning_rate: lr), by parts (num_layers:
// layers), or by what other programs call it (block_size: context).
std::string nearest(std::string_view word, std::span<const std::string> known);

// "a, b, c"
std::string listed(std::span<const std::string> words, std::string_view separator = ", ");

// ' did you mean "x"?' preceded by ';', or "" when nothing is near.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace spectrain
