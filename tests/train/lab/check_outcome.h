#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

#include "train/lab/experiment.h"

namespace spectrain::lab {

// What every outcome promises: all claims are judged by checks, and measurements have names of their own and,
// where nothing in the experiment was broken on purpose, numbers.
inline void check_complete(const Experiment& e, const Outcome& out, bool physical) {
  std::set<std::string> claimed, judged, names;
  for (const Claim& c : e.claims()) claimed.insert(c.id);
  for (const ClaimResult& c : out.claims) {
    judged.insert(c.claim.id);
    EXPECT_FALSE(c.checks.empty()) << c.claim.id;
    EXPECT_FALSE(c.claim.refuted_by.empty()) << c.claim.id;
  }
  EXPECT_EQ(claimed, judged) << "every claim is judged";
  EXPECT_FALSE(out.measurements.empty());
  for (const Measurement& m : out.measurements) {
    if (physical) {
      EXPECT_TRUE(std::isfinite(m.value)) << m.name;
    }
    EXPECT_TRUE(names.insert(m.name).second) << m.name << " is there twice";
  }
  for (const Picture& p : out.pictures)
    for (const Series& line : p.series)
      EXPECT_EQ(line.x.size(), line.y.size()) << p.title << ", " << line.name;
}

}  // namespace spectrain::lab
