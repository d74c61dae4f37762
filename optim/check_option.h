#pragma once

#include <string_view>

namespace spectrain {

// Throw RequestError "muon: momentum is 1.5, but must be at least 0 and below 1" unless 0 <= value < 1
// (respectively value >= 0 and finite).
void check_fraction(std::string_view rule, std::string_view option, double value);
void check_not_negative(std::string_view rule, std::string_view option, double value);

}  // namespace spectrain
