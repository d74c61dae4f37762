#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/cuda/library.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

class CudaLibrary : public testing::Test {
 protected:
  CudaLibrary() : directory_(fs::path(testing::TempDir()) / ("library_" + std::to_string(getpid()))) {
    fs::create_directories(directory_);
  }
  ~CudaLibrary() override { fs::remove_all(directory_); }
  fs::path directory_;
};

TEST_F(CudaLibrary, FunctionsOfOneTheLoaderFindsCanBeCalled) {
  const Library math = Library::open("the C library's mathematics", "libm.so.6");
  ASSERT_TRUE(math) << math.why_not();
  EXPECT_EQ(math.function<double (*)(double)>("floor")(2.5), 2.0);
  EXPECT_EQ(fs::path(math.path()).filename(), "libm.so.6");
  EXPECT_TRUE(math.has("floor"));
  EXPECT_FALSE(math.has("no_such_function"));
  try {
    math.function<void (*)()>("no_such_function");
    FAIL() << "a function that is not there";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("no_such_function"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("libm.so.6"), std::string::npos) << e.what();
  }
}

TEST_F(CudaLibrary, OneThatIsNowhereSaysWhereItWasLookedFor) {
  const std::vector<std::string> also = {directory_.string()};
  const Library none = Library::open("cuNothing", "libspectrain_no_such_library.so.7", also);
  EXPECT_FALSE(none);
  for (const std::string& part : {std::string("cuNothing"), std::string("libspectrain_no_such_library.so.7"),
                                  std::string("/usr/local/cuda"), directory_.string()})
    EXPECT_NE(none.why_not().find(part), std::string::npos) << none.why_not();
  EXPECT_THROW(none.function<void (*)()>("anything"), Error);
}

TEST_F(CudaLibrary, ADirectoryThatIsGivenComesFirst) {
  // The same file under a name that only this directory has.
  const Library math = Library::open("mathematics", "libm.so.6");
  ASSERT_TRUE(math);
  fs::copy_file(fs::canonical(math.path()), directory_ / "libspectrain_mathematics.so.6");
  const std::vector<std::string> given = {"/nonexistent", directory_.string()};
  const Library copy = Library::open("mathematics", "libspectrain_mathematics.so.6", given);
  ASSERT_TRUE(copy) << copy.why_not();
  EXPECT_EQ(fs::path(copy.path()).parent_path(), directory_);
}

TEST_F(CudaLibrary, OneThatIsDamagedSaysWhich) {
  std::ofstream(directory_ / "libspectrain_damaged.so.1") << "not a library";
  const std::vector<std::string> given = {directory_.string()};
  const Library damaged = Library::open("cuDamaged", "libspectrain_damaged.so.1", given);
  EXPECT_FALSE(damaged);
  EXPECT_NE(damaged.why_not().find((directory_ / "libspectrain_damaged.so.1").string()), std::string::npos)
      << damaged.why_not();
  EXPECT_NE(damaged.why_not().find("cannot be loaded"), std::string::npos) << damaged.why_not();
}

}  // namespace
}  // namespace spectrain
