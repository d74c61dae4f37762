#include "kernels/cuda_plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "kernels/cuda/architectures.h"

// What happens when the plug-in is not what it should be. That it is loaded and asked where all is well:
// tests/train/devices_test.cpp.

namespace spectrain {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class CudaPluginFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "spectrain-test-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string path() const { return (directory_ / "libspectrain_cuda.so").string(); }

  void expect_refused(const std::string& at, const std::string& start, const std::string& part) {
    const CudaListing listing = list_cuda_devices(at);
    EXPECT_TRUE(listing.devices.empty());
    EXPECT_EQ(listing.runtime_version, 0);
    EXPECT_THAT(listing.reason, StartsWith(start));
    EXPECT_THAT(listing.reason, HasSubstr(part));
    EXPECT_EQ(listing.reason.find('\n'), std::string::npos);
  }

  std::filesystem::path directory_;
};

TEST_F(CudaPluginFile, LiesBesideTheProgram) {
  EXPECT_EQ(
      cuda_plugin_path(),
      (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libspectrain_cuda.so").string());
}

TEST_F(CudaPluginFile, ThatIsMissingIsAReason) {
  expect_refused(path(), "this build has no CUDA part", "libspectrain_cuda.so is not beside the program");
  expect_refused("", "this build has no CUDA part", "libspectrain_cuda.so is not beside the program");
}

TEST_F(CudaPluginFile, ThatIsNoLibraryIsAReason) {
  std::ofstream(path()) << "an interrupted copy";
  expect_refused(path(), "the CUDA part could not be loaded: ", path());
}

TEST_F(CudaPluginFile, ThatIsAnotherLibraryIsAReason) {
  // The loader finds the C library's mathematics by name; here it stands for any library that is not ours.
  std::filesystem::path other;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (const auto at = line.find('/'); at != std::string::npos && line.find("/libm.so") != std::string::npos)
      other = line.substr(at);
  if (other.empty()) GTEST_SKIP() << "this program runs without a libm.so to take for the wrong library";
  std::filesystem::create_symlink(other, path());
  expect_refused(path(), "the CUDA part could not be loaded: ", "is not a part of this program");
}

TEST(CudaArchitectures, BinaryCodeRunsOnItsOwnGenerationFromItsMinorOn) {
  EXPECT_TRUE(has_cuda_code("80-real", 8, 0));
  EXPECT_TRUE(has_cuda_code("80-real", 8, 9));
  EXPECT_FALSE(has_cuda_code("89-real", 8, 0));
  EXPECT_FALSE(has_cuda_code("80-real", 9, 0));
  EXPECT_FALSE(has_cuda_code("90-real", 8, 9));
  EXPECT_TRUE(has_cuda_code("100-real", 10, 3));
  EXPECT_FALSE(has_cuda_code("100-real", 12, 0));
}

TEST(CudaArchitectures, TheLetterTiesItToOneDevice) {
  EXPECT_TRUE(has_cuda_code("90a-real", 9, 0));
  EXPECT_FALSE(has_cuda_code("100a-real", 10, 3));
  EXPECT_FALSE(has_cuda_code("90a-real", 10, 0));
  EXPECT_FALSE(has_cuda_code("90a-virtual", 10, 0));
}

TEST(CudaArchitectures, PtxRunsOnEverythingFromItOn) {
  EXPECT_TRUE(has_cuda_code("90a-real,80-real,90-virtual", 12, 1));
  EXPECT_TRUE(has_cuda_code("90a-real,80-real,90-virtual", 8, 6));
  EXPECT_FALSE(has_cuda_code("90a-real,80-real,90-virtual", 7, 5));
  EXPECT_FALSE(has_cuda_code("90-virtual", 8, 9));
}

TEST(CudaArchitectures, NonsenseIsNoCode) {
  EXPECT_FALSE(has_cuda_code("", 9, 0));
  EXPECT_FALSE(has_cuda_code(",", 9, 0));
  EXPECT_FALSE(has_cuda_code("native,-real,90", 9, 0));
}

}  // namespace
}  // namespace spectrain
