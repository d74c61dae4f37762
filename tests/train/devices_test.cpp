#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "kernels/cuda_plugin.h"
#include "tests/train/scratch_directory.h"

// `spectrain devices` and --device, through the program itself. A GPU is not needed: a plug-in compiled here
// plays one where its looks are tested. With SPECTRAIN_CUDA the real plug-in must load on any machine.

namespace spectrain {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const std::string kProgram = SPECTRAIN_BINARY_DIR "/spectrain";
const std::string kPlugin = SPECTRAIN_BINARY_DIR "/libspectrain_cuda.so";

struct Outcome {
  int code = -1;
  std::string text;  // standard output and standard error
};

Outcome shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) outcome.text.append(buffer, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

std::string quoted(const std::string& text) { return "'" + text + "'"; }

std::string line_of(const std::string& text, const std::string& start) {
  const std::size_t at = ("\n" + text).find("\n" + start);
  return at == std::string::npos ? std::string() : text.substr(at, text.find('\n', at) - at);
}

const std::string kOnCuda =
    " bench " + quoted(SPECTRAIN_SOURCE_DIR "/configs/gpt2-124m.yaml") + " --device cuda";

// Compiles a library to `out`; false where there is no compiler.
bool compile(const ScratchDirectory& scratch, const std::string& source, const std::string& out) {
  if (shell("c++ --version").code != 0) return false;
  put_contents(scratch / "library.cpp", source);
  const Outcome compiled = shell(
      "c++ -std=c++20 -shared -fPIC -DINTERFACE='\"" + std::string(cuda_plugin_interface()) + "\"' -I " +
      quoted(SPECTRAIN_SOURCE_DIR) + " -o " + quoted(out) + " " + quoted(scratch / "library.cpp"));
  // The test's own source is at fault, which must not pass for a machine without a compiler.
  EXPECT_EQ(compiled.code, 0) << compiled.text;
  return true;
}

bool compile_plugin(const ScratchDirectory& scratch, const std::string& body, const std::string& out) {
  return compile(scratch,
                 "#include <cstdio>\n#include \"kernels/cuda/plugin.h\"\nusing namespace spectrain;\n" + body,
                 out);
}

constexpr const char* kTwoGpus = R"(
std::int32_t list(CudaPluginSystem* s, CudaPluginDevice* d, std::int32_t capacity) {
  *s = {13000, 13010, "90a-real", ""};
  if (capacity >= 1) d[0] = {0, 9, 0, 132, 85017493504, "NVIDIA H100 80GB HBM3", ""};
  if (capacity >= 2) d[1] = {1, 8, 0, 108, 42949672960, "Older test GPU", "this build has no code for it"};
  return 2;
}
std::int32_t libraries(CudaPluginLibrary* l, std::int32_t) {
  l[0] = {"cuTest", "1.2.3", "/opt/libcuTest.so.1", "", "nothing works"};
  l[1] = {"cuGone", "", "", "cuGone (libcuGone.so.9) is nowhere", "attention is computed by hand"};
  return 2;
}
Backend* make(const CudaOptions*, char* reason, std::size_t capacity) {
  std::snprintf(reason, capacity, "it is only played");
  return nullptr;
}
const CudaPlugin* spectrain_cuda_plugin() {
  static const CudaPlugin p{INTERFACE, list, libraries, make};
  return &p;
}
)";

TEST(Devices, TheProgramListsTheCpuAndSaysWhyThereIsNoGpu) {
  const Outcome devices = shell(quoted(kProgram) + " devices");
  EXPECT_EQ(devices.code, 0) << devices.text;
  EXPECT_THAT(line_of(devices.text, "cpu   "), HasSubstr("thread"));
  const CudaListing expected = list_cuda_devices(kPlugin);
  if (expected.devices.empty()) {
    ASSERT_FALSE(expected.reason.empty());
    EXPECT_EQ(line_of(devices.text, "cuda  "), "cuda  none: " + expected.reason);
    if (expected.runtime_version == 0) {
      EXPECT_EQ(std::count(devices.text.begin(), devices.text.end(), '\n'), 2) << devices.text;
    }
  } else {
    EXPECT_THAT(line_of(devices.text, "cuda  0: "), HasSubstr(expected.devices.front().name));
  }
}

TEST(Devices, HelpKnowsIt) {
  EXPECT_THAT(shell(quoted(kProgram) + " --help").text, HasSubstr("\n  devices "));
  const Outcome own = shell(quoted(kProgram) + " devices --help");
  EXPECT_EQ(own.code, 0);
  EXPECT_THAT(own.text, HasSubstr("spectrain devices"));
}

TEST(Devices, CudaIsRefusedWithTheReasonAndTheWayOut) {
  if (!list_cuda_devices(kPlugin).devices.empty()) GTEST_SKIP() << "there is a GPU";
  const Outcome outcome = shell(quoted(kProgram) + kOnCuda);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.text, StartsWith("spectrain: compute.device is cuda, but "));
  EXPECT_THAT(outcome.text, HasSubstr(list_cuda_devices(kPlugin).reason));
  EXPECT_THAT(outcome.text, EndsWith("--device cpu\n"));
  EXPECT_EQ(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 1) << outcome.text;
}

TEST(Devices, WithoutThePlugInItSaysSo) {
  const ScratchDirectory scratch;
  std::filesystem::copy_file(kProgram, scratch / "spectrain");
  const Outcome devices = shell(quoted(scratch / "spectrain") + " devices");
  EXPECT_EQ(devices.code, 0) << devices.text;
  EXPECT_EQ(line_of(devices.text, "cuda  "),
            "cuda  none: this build has no CUDA part (libspectrain_cuda.so is not beside the program)");
}

TEST(Devices, GpusAreListedWithWhatIsWrongWithThem) {
  const ScratchDirectory scratch;
  std::filesystem::copy_file(kProgram, scratch / "spectrain");
  if (!compile_plugin(scratch, kTwoGpus, scratch / "libspectrain_cuda.so"))
    GTEST_SKIP() << "no c++ to compile a plug-in with";
  const Outcome devices = shell(quoted(scratch / "spectrain") + " devices");
  EXPECT_EQ(devices.code, 0);
  EXPECT_THAT(devices.text, StartsWith("cpu   "));
  EXPECT_THAT(devices.text,
              EndsWith("\ncuda  0: NVIDIA H100 80GB HBM3, compute capability 9.0, 132 SMs, 79.2 GiB, "
                       "data sheet 989 TFLOP/s in bf16 and 3.35 TB/s\n"
                       "cuda  1: Older test GPU, compute capability 8.0, 108 SMs, 40.0 GiB, data sheet n/a\n"
                       "      not usable: this build has no code for it\n"
                       "      driver for CUDA 13.1\n"
                       "      runtime 13.0, code for 90a-real\n"
                       "      cuTest 1.2.3, /opt/libcuTest.so.1\n"
                       "      cuGone is not used: cuGone (libcuGone.so.9) is nowhere; attention is "
                       "computed by hand\n"));
  const Outcome refused = shell(quoted(scratch / "spectrain") + kOnCuda);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.text, StartsWith("spectrain: compute.device is cuda, but "));
  EXPECT_THAT(refused.text, EndsWith("--device cpu\n"));
  EXPECT_EQ(std::count(refused.text.begin(), refused.text.end(), '\n'), 1) << refused.text;
}

TEST(Devices, ThePlugInOfAnotherVersionIsRefused) {
  const ScratchDirectory scratch;
  if (!compile_plugin(
          scratch,
          "const CudaPlugin* spectrain_cuda_plugin() {\n"
          "  static const CudaPlugin p{\"older\" INTERFACE, nullptr, nullptr, nullptr};\n  return &p;\n}\n",
          scratch / "other.so"))
    GTEST_SKIP() << "no c++ to compile a plug-in with";
  const CudaListing listing = list_cuda_devices(scratch / "other.so");
  EXPECT_TRUE(listing.devices.empty());
  EXPECT_THAT(listing.reason, HasSubstr("belongs to another version of the program"));
}

TEST(Devices, MoreGpusThanThereIsRoomForAtFirstAreAllListed) {
  const ScratchDirectory scratch;
  if (!compile_plugin(scratch, R"(
std::int32_t list(CudaPluginSystem* s, CudaPluginDevice* d, std::int32_t capacity) {
  *s = {};
  for (int i = 0; i < capacity && i < 40; ++i) {
    d[i] = {};
    d[i].index = i;
    std::snprintf(d[i].name, sizeof d[i].name, "GPU %d", i);
  }
  return 40;
}
const CudaPlugin* spectrain_cuda_plugin() {
  static const CudaPlugin p{INTERFACE, list, nullptr, nullptr};
  return &p;
}
)",
                      scratch / "forty.so"))
    GTEST_SKIP() << "no c++ to compile a plug-in with";
  const CudaListing listing = list_cuda_devices(scratch / "forty.so");
  ASSERT_EQ(listing.devices.size(), 40u);
  EXPECT_EQ(listing.devices.back().index, 39);
  EXPECT_EQ(listing.devices.back().name, "GPU 39");
}

// The promise behind the plug-in: the program starts on a machine without any NVIDIA library.
TEST(Devices, TheProgramNeedsNoCudaLibrary) {
  const Outcome needed = shell("readelf -d " + quoted(kProgram));
  if (needed.code == 127) GTEST_SKIP() << "readelf (binutils) was not found";
  ASSERT_EQ(needed.code, 0) << needed.text;
  ASSERT_THAT(needed.text, HasSubstr("(NEEDED)"));
  for (const char* library : {"libcu", "libnccl", "libnvidia", "libspectrain_cuda"})
    EXPECT_THAT(needed.text, Not(HasSubstr(std::string("[") + library)));
}

// ---- the real plug-in; the GPU's part of these has to wait for a machine with one

class RealPlugIn : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!SPECTRAIN_CUDA) GTEST_SKIP() << "built without SPECTRAIN_CUDA: there is no plug-in";
    ASSERT_TRUE(std::filesystem::exists(kPlugin)) << kPlugin;
  }
};

TEST_F(RealPlugIn, LoadsAndAnswersOnAnyMachine) {
  const CudaListing listing = list_cuda_devices(kPlugin);
  EXPECT_GE(listing.runtime_version, 12000) << listing.reason;
  EXPECT_THAT(listing.architectures, HasSubstr("-real"));
  EXPECT_NE(listing.devices.empty(), listing.reason.empty()) << "either devices or a reason";
  if (listing.driver_version == 0) {
    EXPECT_EQ(listing.reason, "no NVIDIA driver was found (a container must be started with its GPUs)");
  }
}

TEST_F(RealPlugIn, SaysOfEachLibraryWhereItIsOrWhyItIsNotUsed) {
  const std::vector<CudaLibrary> libraries = list_cuda_libraries(kPlugin);
  ASSERT_EQ(libraries.size(), 4u);
  const Outcome devices = shell(quoted(kProgram) + " devices");
  EXPECT_EQ(devices.code, 0) << devices.text;
  const char* names[] = {"cuBLASLt", "cuDNN", "cuSOLVER", "NCCL"};
  for (std::size_t i = 0; i < libraries.size(); ++i) {
    const CudaLibrary& l = libraries[i];
    EXPECT_EQ(l.name, names[i]);
    EXPECT_NE(l.version.empty(), l.problem.empty()) << l.name << ": either a version or a problem";
    EXPECT_FALSE(l.without.empty());
    const std::string line = line_of(devices.text, "      " + l.name + " ");
    if (l.problem.empty()) {
      EXPECT_THAT(l.version, ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
      EXPECT_TRUE(std::filesystem::exists(l.path)) << l.path;
      EXPECT_EQ(line, "      " + l.name + " " + l.version + ", " + l.path);
    } else {
      EXPECT_EQ(line, "      " + l.name + " is not used: " + l.problem + "; " + l.without);
    }
  }
}

// NVIDIA's own tools would: a listing that holds memory on each GPU is in the way of those who use them.
TEST_F(RealPlugIn, ListsWithoutAContext) {
  if (list_cuda_devices(kPlugin).devices.empty()) GTEST_SKIP() << list_cuda_devices(kPlugin).reason;
  const Outcome apps = shell("nvidia-smi --query-compute-apps=pid --format=csv,noheader");
  if (apps.code != 0) GTEST_SKIP() << "nvidia-smi was not found";
  list_cuda_libraries(kPlugin);
  EXPECT_THAT(shell("nvidia-smi --query-compute-apps=pid --format=csv,noheader").text,
              Not(HasSubstr(std::to_string(getpid()))));
}

TEST_F(RealPlugIn, DescribesTheGpus) {
  const CudaListing listing = list_cuda_devices(kPlugin);
  if (listing.devices.empty()) GTEST_SKIP() << listing.reason;
  for (const CudaDevice& device : listing.devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GE(device.major, 5);
    EXPECT_GT(device.multiprocessors, 0);
    EXPECT_GT(device.memory, std::uint64_t{1} << 30);
  }
}

TEST_F(RealPlugIn, WithItsGpusHiddenSaysSo) {
  if (list_cuda_devices(kPlugin).devices.empty()) GTEST_SKIP() << list_cuda_devices(kPlugin).reason;
  const Outcome devices = shell("CUDA_VISIBLE_DEVICES= " + quoted(kProgram) + " devices");
  EXPECT_EQ(devices.code, 0) << devices.text;
  EXPECT_THAT(line_of(devices.text, "cuda  "), HasSubstr("shows no GPU to this process"));
}

// A driver that is there and of no use, played by a libcuda.so.1 that answers the runtime with the version
// and the result of cuInit given to it, and with "no device" whatever else it is asked.
constexpr const char* kDriver = R"(
#include <cstring>
extern "C" int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
extern "C" int cuInit(unsigned) { return INIT; }
static int no_device() { return 100; }
extern "C" int cuGetExportTable(const void** table, const void*) { *table = nullptr; return 100; }
extern "C" int cuGetProcAddress_v2(const char* name, void** f, int, unsigned long long, int* status) {
  if (status != nullptr) *status = 0;
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  *f = is("cuDriverGetVersion") ? reinterpret_cast<void*>(cuDriverGetVersion)
       : is("cuInit")           ? reinterpret_cast<void*>(cuInit)
       : is("cuGetExportTable") ? reinterpret_cast<void*>(cuGetExportTable)
       : is("cuGetProcAddress") ? reinterpret_cast<void*>(cuGetProcAddress_v2)
                                : reinterpret_cast<void*>(no_device);
  return 0;
}
)";

TEST_F(RealPlugIn, ADriverThatIsOfNoUseIsToldApart) {
  const auto reason = [](const std::string& version, const std::string& init, bool& compiled) {
    const ScratchDirectory scratch;
    compiled = compile(scratch, "#define VERSION " + version + "\n#define INIT " + init + "\n" + kDriver,
                       scratch / "libcuda.so.1");
    const Outcome devices =
        shell("LD_LIBRARY_PATH=" + quoted(scratch.path()) + " " + quoted(kProgram) + " devices");
    EXPECT_EQ(devices.code, 0) << devices.text;
    return line_of(devices.text, "cuda  ");
  };
  bool compiled = false;
  const std::string too_old = reason("11000", "0", compiled);
  if (!compiled) GTEST_SKIP() << "no c++ to compile a driver with";
  EXPECT_THAT(too_old,
              StartsWith("cuda  none: the NVIDIA driver runs CUDA up to 11.0 and this build is made with"));
  EXPECT_THAT(reason("99010", "100", compiled),
              StartsWith("cuda  none: the NVIDIA driver (CUDA 99.1) shows no GPU to this process"));
  EXPECT_EQ(reason("99010", "999", compiled),
            "cuda  none: the CUDA runtime failed: unknown error (cudaErrorUnknown)");
}

TEST_F(RealPlugIn, ExportsItsEntryAloneAndCarriesItsRuntime) {
  const Outcome symbols = shell("nm -D --defined-only " + quoted(kPlugin));
  if (symbols.code == 127) GTEST_SKIP() << "nm (binutils) was not found";
  EXPECT_EQ(std::count(symbols.text.begin(), symbols.text.end(), '\n'), 1) << symbols.text;
  EXPECT_THAT(symbols.text, EndsWith(" T spectrain_cuda_plugin\n"));
  const Outcome dynamic = shell("readelf -d " + quoted(kPlugin));
  EXPECT_THAT(dynamic.text, HasSubstr("[$ORIGIN]"));
  for (const char* library : {"libcudart", "libcuda.so", "libcublas", "libcudnn", "libcusolver", "libnccl"})
    EXPECT_THAT(dynamic.text, Not(HasSubstr(std::string("[") + library)));
}

}  // namespace
}  // namespace spectrain
