#pragma once

#include <string>
#include <vector>

#include "train/lab/record.h"

namespace spectrain::lab {

// What was found, as one page that needs nothing else: the table of claims and verdicts first, then each
// experiment. Numbers stand in elements <data class="value|spread|expected" value="all digits">, verdicts in
// <data class="verdict" value="words">. Pictures are drawn by gnuplot; without it the page says so and has
// none.
std::string lab_page(const std::vector<ExperimentRecord>& records, const std::string& version);

}  // namespace spectrain::lab
