#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "train/lab/experiment.h"

// Checks made of numbers, so that what a report prints as measured is what was judged. A number that is not
// finite fails every check. `statement` should name the criterion; the number and its unit are added as what
// was measured.

namespace spectrain::lab {

Check no_more(std::string statement, double value, double limit, std::string_view unit = "");
Check no_less(std::string statement, double value, double limit, std::string_view unit = "");
Check between(std::string statement, double value, double low, double high, std::string_view unit = "");
// |value - expected| <= tolerance |expected|
Check near_expected(std::string statement, double value, double expected, double tolerance);
// Every |values[i] - expected[i]| <= tolerance |expected[i]|; the worst is reported, in percent.
Check all_near(std::string statement, const std::vector<double>& values, const std::vector<double>& expected,
               double tolerance);

// A number with four significant digits: "0.3742", "2.06e-05", "20089".
std::string shown(double value);
std::string shown(const std::vector<double>& values);  // "0.1, 0.2"

// A mean over draws with its spread. `expected` of an independent implementation with the same settings.
Measurement measured(std::string name, const std::vector<double>& values, std::string unit = "");
Measurement measured(std::string name, double value, std::string unit = "");
Measurement expecting(Measurement m, double expected, std::string_view from);
// Expecting what an independent implementation measured, where the settings are its own.
Measurement published(Measurement m, double expected, bool same_settings);

inline constexpr std::string_view kIndependent = "an independent implementation with the same settings";

double mean_of(const std::vector<double>& values);

// The least squares slope of log y against log x.
double log_slope(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace spectrain::lab
