#include "train/compare_driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace spectrain {
namespace {

using testing::ElementsAre;

CudaDevice gpu(int index, const char* problem = "") {
  CudaDevice d;
  d.index = index;
  d.problem = problem;
  return d;
}

// A child that sees one device calls it 0, so it must be named as this process was told of it.
TEST(CompareDriver, NamesGpusAsTheirChildrenFindThem) {
  const std::vector<CudaDevice> two = {gpu(0), gpu(1)};
  EXPECT_THAT(usable_gpus(two, nullptr), ElementsAre("0", "1"));
  EXPECT_THAT(usable_gpus(two, ""), ElementsAre("0", "1"));
  EXPECT_THAT(usable_gpus(two, "5,3"), ElementsAre("5", "3"));
  EXPECT_THAT(usable_gpus(two, "GPU-8932f937,MIG-1"), ElementsAre("GPU-8932f937", "MIG-1"));
  EXPECT_THAT(usable_gpus({gpu(0, "too old"), gpu(1)}, "5,3"), ElementsAre("3"));
  EXPECT_THAT(usable_gpus({}, "5,3"), ElementsAre());
}

TEST(CompareDriver, OneProcessPerGpuWhereThePlanLeavesItOpen) {
  ComparePlan plan;
  plan.parallel = 0;
  EXPECT_EQ(processes_for(plan, {"0", "1", "2"}), 3);
  EXPECT_EQ(processes_for(plan, {}), 1);
  plan.parallel = 4;
  EXPECT_EQ(processes_for(plan, {"0", "1"}), 4);
}

}  // namespace
}  // namespace spectrain
