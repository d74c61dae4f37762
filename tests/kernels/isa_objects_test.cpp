#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

// Code compiled for AVX2 or AVX-512 must not leak into the rest of the program. An inline function or
// template that such an object defines outside its own namespace is weak: the linker keeps one copy for
// everybody, and if that is the AVX-512 one, a CPU without AVX-512 dies of an illegal instruction far away.
// The symbol tables tell.

namespace spectrain {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> lines_of(const std::string& command) {
  std::vector<std::string> lines;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return lines;
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c != '\n') {
      line += static_cast<char>(c);
      continue;
    }
    lines.push_back(line);
    line.clear();
  }
  pclose(pipe);
  return lines;
}

// Defined symbols others may link to: of the types of nm, all upper-case ones and the weak u, v, w; not U.
// What nm prints: "0000000000000000 W spectrain::avx512::exp_fast(float)".
bool leaks(const std::string& line, const std::string& isa) {
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || space + 3 > line.size()) return false;
  const char type = line[space + 1];
  if (std::string("TDBRWVuwvCGSi").find(type) == std::string::npos) return false;
  const std::string name = line.substr(space + 3);
  // Generated names ("guard variable for", "vtable for") and return types of templates stand in front.
  // __odr_asan: marks of the address sanitizer beside the data it watches.
  return name.find("spectrain::" + isa + "::") == std::string::npos && name.rfind("DW.ref.", 0) != 0 &&
         name.rfind("__odr_asan.", 0) != 0;
}

void check(const std::string& isa) {
  const fs::path objects = fs::path(SPECTRAIN_BINARY_DIR) / "CMakeFiles" / ("spectrain_isa_" + isa + ".dir");
  if (!fs::exists(objects)) GTEST_SKIP() << "this build has no " << isa << " objects";
  if (lines_of("nm --version 2>/dev/null").empty()) GTEST_SKIP() << "nm is not installed";
  int files = 0, symbols = 0;
  for (const auto& entry : fs::recursive_directory_iterator(objects)) {
    if (entry.path().extension() != ".o") continue;
    // An object of a source that has since gone lies there until the folder is cleaned; it is not linked.
    const fs::path source =
        fs::path(SPECTRAIN_SOURCE_DIR) / fs::relative(entry.path(), objects).replace_extension("");
    if (!fs::exists(source)) continue;
    ++files;
    for (const std::string& line :
         lines_of("nm -C --defined-only '" + entry.path().string() + "' 2>/dev/null")) {
      ++symbols;
      EXPECT_FALSE(leaks(line, isa)) << entry.path().filename() << " defines " << line
                                     << " outside its namespace";
    }
  }
  EXPECT_GT(files, 0) << "no objects under " << objects;
  EXPECT_GT(symbols, files) << "nm showed no symbols";
}

TEST(IsaObjects, Avx512KeepsToItsNamespace) { check("avx512"); }
TEST(IsaObjects, Avx2KeepsToItsNamespace) { check("avx2"); }

TEST(IsaObjects, TheCheckSeesALeak) {
  EXPECT_TRUE(leaks("0000000000000000 W float std::max<float>(float const&, float const&)", "avx512"));
  EXPECT_TRUE(leaks("0000000000000000 W spectrain::philox(spectrain::RandomKey, unsigned long)", "avx512"));
  EXPECT_TRUE(leaks("0000000000000000 W spectrain::avx2::exp_fast(float)", "avx512"));
  EXPECT_FALSE(leaks("0000000000000000 W spectrain::avx512::exp_fast(float)", "avx512"));
  EXPECT_FALSE(leaks("0000000000000010 t local_function", "avx512"));
}

}  // namespace
}  // namespace spectrain
