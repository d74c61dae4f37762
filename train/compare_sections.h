#pragma once

#include <string>
#include <vector>

#include "train/compare_fields.h"
#include "train/compare_pictures.h"
#include "train/compare_results.h"
#include "train/compare_statistics.h"
#include "train/html_page.h"

namespace spectrain {

// The sections of a comparison's report, in the order of the page. Sections with nothing to say are left out.
std::vector<HtmlSection> report_sections(const ComparedRuns& results, const ComparisonStatistics& all,
                                         const std::vector<SummaryRow>& rows);

// Pictures of losses, of the grids and of costs; one section that says why when gnuplot is missing.
std::vector<HtmlSection> picture_sections(const ComparedRuns& results, const ComparisonStatistics& all);

// What the runs wrote along the way besides losses, from their metrics' lines: a section each for what is
// there.
std::vector<HtmlSection> diagnostic_sections(const ComparedRuns& results, const ComparisonStatistics& all);

}  // namespace spectrain
