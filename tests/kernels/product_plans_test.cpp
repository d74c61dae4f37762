#include "kernels/cuda/product_plans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/error.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMachine = "NVIDIA H100 80GB HBM3, 132 SMs, cuBLASLt 13.1.0";

class ProductPlans : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "spectrain-plans-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = (directory_ / "products.plans").string();
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string contents() const {
    std::ifstream file(path_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void replace(const std::string& text) const { std::ofstream(path_, std::ios::trunc) << text; }

  fs::path directory_;
  std::string path_;
};

ProductPlan plan(std::uint64_t seed) {
  ProductPlan p;
  for (std::uint64_t& word : p) word = seed = seed * 6364136223846793005u + 1442695040888963407u;
  return p;
}

TEST_F(ProductPlans, AreThereInTheNextRun) {
  PlanFile first(path_, kMachine);
  EXPECT_TRUE(first.writable());
  EXPECT_FALSE(first.find("a").has_value());
  EXPECT_EQ(first.settle("a", plan(1)), plan(1));
  EXPECT_EQ(first.settle("b", plan(2)), plan(2));
  EXPECT_EQ(first.find("a"), plan(1));
  const PlanFile next(path_, kMachine);
  EXPECT_EQ(next.find("a"), plan(1));
  EXPECT_EQ(next.find("b"), plan(2));
  EXPECT_FALSE(next.find("c").has_value());
}

TEST_F(ProductPlans, OfWhoeverWasFirstHold) {
  PlanFile one(path_, kMachine), other(path_, kMachine);  // both begin with an empty file
  EXPECT_EQ(one.settle("a", plan(1)), plan(1));
  EXPECT_EQ(other.settle("a", plan(2)), plan(1));
  EXPECT_EQ(other.find("a"), plan(1));
  EXPECT_EQ(other.settle("b", plan(3)), plan(3));
  EXPECT_EQ(PlanFile(path_, kMachine).find("a"), plan(1));
}

TEST_F(ProductPlans, OfOtherMachinesAreKeptAndNotUsed) {
  PlanFile h100(path_, kMachine), h200(path_, "NVIDIA H200, 132 SMs, cuBLASLt 13.1.0"),
      newer(path_, "NVIDIA H100 80GB HBM3, 132 SMs, cuBLASLt 13.2.0");
  h100.settle("a", plan(1));
  EXPECT_EQ(h200.settle("a", plan(2)), plan(2));
  EXPECT_EQ(newer.settle("a", plan(3)), plan(3));
  h100.settle("b", plan(4));
  EXPECT_EQ(PlanFile(path_, kMachine).find("a"), plan(1));
  EXPECT_EQ(PlanFile(path_, "NVIDIA H200, 132 SMs, cuBLASLt 13.1.0").find("a"), plan(2));
  EXPECT_EQ(PlanFile(path_, "NVIDIA H100 80GB HBM3, 132 SMs, cuBLASLt 13.2.0").find("a"), plan(3));
}

// Every place of a line, changed or cut: that line is not used, the others are.
TEST_F(ProductPlans, DamagedLinesAreIgnored) {
  {
    PlanFile file(path_, kMachine);
    file.settle("a", plan(1));
    file.settle("b", plan(2));
  }
  const std::string whole = contents();
  const std::size_t end = whole.find('\n');
  ASSERT_NE(end, std::string::npos);
  const std::string line = whole.substr(0, end), rest = whole.substr(end);
  for (std::size_t i = 0; i < line.size(); ++i) {
    std::string changed = line;
    changed[i] = changed[i] == '0' ? '1' : '0';
    replace(changed + rest);
    const PlanFile after_change(path_, kMachine);
    ASSERT_FALSE(after_change.find("a").has_value()) << "place " << i;
    ASSERT_EQ(after_change.find("b"), plan(2)) << "place " << i;
    replace(line.substr(0, i) + rest);
    const PlanFile after_cut(path_, kMachine);
    ASSERT_FALSE(after_cut.find("a").has_value()) << "cut at " << i;
    ASSERT_EQ(after_cut.find("b"), plan(2)) << "cut at " << i;
  }
  // And they are gone with the next writing, which replaces what was lost.
  replace("something else\n\n\t\t\t\t\n" + line.substr(0, 40) + rest);
  PlanFile file(path_, kMachine);
  EXPECT_EQ(file.settle("a", plan(5)), plan(5));
  EXPECT_EQ(PlanFile(path_, kMachine).find("a"), plan(5));
  EXPECT_EQ(PlanFile(path_, kMachine).find("b"), plan(2));
  EXPECT_EQ(contents().find("something else"), std::string::npos);
}

TEST_F(ProductPlans, NamesMayHoldAnything) {
  PlanFile file(path_, "a\tdevice\nwith\rbreaks");
  file.settle("a\tproduct\n", plan(1));
  EXPECT_EQ(file.find("a\tproduct\n"), plan(1));
  EXPECT_EQ(PlanFile(path_, "a\tdevice\nwith\rbreaks").find("a\tproduct\n"), plan(1));
}

TEST_F(ProductPlans, ADirectoryIsMadeForTheFile) {
  path_ = (directory_ / "deeper" / "still" / "products.plans").string();
  PlanFile(path_, kMachine).settle("a", plan(1));
  EXPECT_EQ(PlanFile(path_, kMachine).find("a"), plan(1));
}

TEST_F(ProductPlans, WhatCannotBeWrittenIsReadAndNothingElse) {
  PlanFile nowhere("/proc/no/such/place/products.plans", kMachine);
  EXPECT_FALSE(nowhere.writable());
  EXPECT_FALSE(nowhere.find("a").has_value());
  EXPECT_EQ(nowhere.settle("a", plan(1)), plan(1));
  EXPECT_EQ(nowhere.find("a"), plan(1));
  EXPECT_FALSE(PlanFile(directory_.string(), kMachine).writable());
}

TEST_F(ProductPlans, AFileThatCannotBeReplacedAnyMoreIsAnError) {
  PlanFile file(path_, kMachine);
  ASSERT_TRUE(file.writable());
  fs::create_directories(fs::path(path_) / "a directory in its place");
  try {
    file.settle("a", plan(1));
    FAIL() << "written over a directory";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr(path_));
  }
  for (const auto& entry : fs::directory_iterator(directory_))  // no temporary file is left
    EXPECT_TRUE(entry.path() == path_ || entry.path() == path_ + ".lock") << entry.path();
}

// Many processes at once, each with an opinion about every product: all end with the same plans, and the file
// has every line.
TEST_F(ProductPlans, OfManyProcessesAreOne) {
  constexpr int kProcesses = 6, kProducts = 12;
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int code = 1;
      try {
        PlanFile file(path_, kMachine);
        std::ofstream answers(directory_ / ("answers." + std::to_string(process)));
        for (int i = 0; i < kProducts; ++i) {
          const int product = (i * 5 + process) % kProducts;
          const ProductPlan p = file.settle(std::to_string(product),
                                            plan(static_cast<std::uint64_t>(1000 * process + product)));
          answers << product << ' ' << p[0] << '\n';
        }
        file.settle("own " + std::to_string(process), plan(static_cast<std::uint64_t>(process)));
        code = answers.flush() ? 0 : 2;
      } catch (...) {
      }
      _exit(code);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  const PlanFile file(path_, kMachine);
  std::set<std::string> answers;
  for (int process = 0; process < kProcesses; ++process) {
    std::ifstream in(directory_ / ("answers." + std::to_string(process)));
    for (std::string line; std::getline(in, line);) answers.insert(line);
    EXPECT_EQ(file.find("own " + std::to_string(process)), plan(static_cast<std::uint64_t>(process)));
  }
  EXPECT_EQ(answers.size(), static_cast<std::size_t>(kProducts));  // one answer for each, whoever asked
  for (int product = 0; product < kProducts; ++product) {
    const auto found = file.find(std::to_string(product));
    ASSERT_TRUE(found.has_value());
    EXPECT_TRUE(answers.contains(std::to_string(product) + ' ' + std::to_string((*found)[0])));
  }
}

TEST(ProductKeys, DifferWhereTheChoiceMay) {
  alignas(16) static unsigned char memory[64];
  Product p;
  p.m = 2, p.n = 3, p.k = 4;
  p.a = memory, p.b = memory + 16, p.c = memory + 32;
  std::vector<Product> all = {p};
  const auto vary = [&](auto change) {
    all.push_back(p);
    change(all.back());
  };
  vary([](Product& q) { q.batch = 2; });
  vary([](Product& q) { q.m = 5; });
  vary([](Product& q) { q.n = 5; });
  vary([](Product& q) { q.k = 5; });
  vary([](Product& q) { q.transpose_a = true; });
  vary([](Product& q) { q.transpose_b = true; });
  vary([](Product& q) { q.factors = DType::f16; });
  vary([](Product& q) { q.result = DType::f32; });
  vary([](Product& q) { q.bias = memory; });
  vary([](Product& q) { q.gelu_tanh = true; });
  vary([](Product& q) { q.pre = memory; });
  vary([](Product& q) { q.slope_at = memory; });
  vary([](Product& q) { q.a = memory + 2; });
  vary([](Product& q) { q.b = memory + 8; });
  vary([](Product& q) { q.c = memory + 4; });
  std::set<ProductKey> keys;
  std::set<std::string> texts;
  for (const Product& q : all) {
    keys.insert(ProductKey(q));
    texts.insert(ProductKey(q).text());
  }
  EXPECT_EQ(keys.size(), all.size());
  EXPECT_EQ(texts.size(), all.size());
  // What the choice does not depend on.
  Product same = p;
  same.alpha = 3, same.beta = 1, same.a = memory + 48;
  EXPECT_EQ(ProductKey(same), ProductKey(p));
  EXPECT_EQ(ProductKey(p).text(), "[2, 4] . [4, 3], bf16 to bf16, aligned 16 16 16");
}

}  // namespace
}  // namespace spectrain
