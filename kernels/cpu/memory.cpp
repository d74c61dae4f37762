#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/convert.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {

class CpuBuffer final : public Buffer {
 public:
  CpuBuffer(CpuBackend& owner, void* data, std::size_t bytes) : owner_(owner) {
    data_ = data;
    bytes_ = bytes;
    owner_.allocated_ += bytes;
  }
  ~CpuBuffer() override {
    std::free(data_);
    owner_.allocated_ -= bytes_;
  }
  CpuBuffer(const CpuBuffer&) = delete;
  CpuBuffer& operator=(const CpuBuffer&) = delete;

 private:
  CpuBackend& owner_;
};

namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and a full AVX-512 vector
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::string size_text(std::size_t bytes) {
  const double b = static_cast<double>(bytes);
  if (bytes >= 1000000000) return fmt::format("{:.1f} GB", b / 1e9);
  if (bytes >= 1000000) return fmt::format("{:.1f} MB", b / 1e6);
  if (bytes >= 1000) return fmt::format("{:.1f} kB", b / 1e3);
  return fmt::format("{} bytes", bytes);
}

// The memory this process can ever have: the machine's, or its control group's limit where that is less.
// Linux promises memory it does not have and kills whoever touches it; a sentence is better than SIGKILL.
std::size_t memory_limit() {
  std::size_t limit =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::size_t group = 0;
    if (std::ifstream(path) >> group && group > 0 && group < limit) limit = group;  // "max" is not a number
  }
  return limit;
}

int float_index(const Tensor& t, const char* kernel) {
  require(t.dtype != DType::i32, kernel, "i32 is not a float dtype");
  require(t.dtype != DType::f16, kernel, "the CPU has no f16");
  return static_cast<int>(t.dtype);
}

template <class T>
void fill_with(int threads, const Tensor& x, T value) {
  T* p = x.as<T>();
  parallel_ranges(threads, x.numel(), kElementGrain,
                  [=](std::int64_t begin, std::int64_t end) { std::fill(p + begin, p + end, value); });
}

void copy_bytes(int threads, const void* from, void* to, std::size_t bytes) {
  if (bytes == 0 || from == to) return;
  parallel_ranges(threads, static_cast<std::int64_t>(bytes), kElementGrain * 4,
                  [=](std::int64_t begin, std::int64_t end) {
                    std::memcpy(static_cast<std::byte*>(to) + begin,
                                static_cast<const std::byte*>(from) + begin,
                                static_cast<std::size_t>(end - begin));
                  });
}

}  // namespace

std::unique_ptr<Buffer> CpuBackend::allocate(std::size_t bytes, std::string_view name) {
  const auto no_room = [&] {
    return Error(
        fmt::format("no room for {} of {} on cpu ({} in use, {} in all): make the batch or the model smaller",
                    size_text(bytes), name, size_text(allocated_), size_text(memory_limit())));
  };
  const std::size_t limit = memory_limit();
  if (bytes > limit || allocated_ > limit - bytes) throw no_room();
  const bool huge = bytes >= 2 * kHugePage;
  const std::size_t alignment = huge ? kHugePage : kAlignment;
  // aligned_alloc wants a multiple of the alignment; a whole line also lets kernels read past a ragged end.
  const std::size_t rounded = bytes == 0 ? kAlignment : (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, rounded) != 0) throw no_room();
  // Advice only: long streams through 4 KiB pages spend a good part of their time on address translation.
  if (huge) madvise(data, rounded / kHugePage * kHugePage, MADV_HUGEPAGE);
  return std::make_unique<CpuBuffer>(*this, data, bytes);
}

void CpuBackend::fill(const Tensor& x, double value) {
  switch (x.dtype) {
    case DType::f64:
      return fill_with(threads_, x, value);
    case DType::f32:
      return fill_with(threads_, x, static_cast<float>(value));
    case DType::bf16:
      return fill_with(threads_, x, bf16(static_cast<float>(value)));
    case DType::i32:
      return fill_with(threads_, x, static_cast<std::int32_t>(value));
    case DType::f16:
      require(false, "fill", "the CPU has no f16");
  }
}

void CpuBackend::copy(const Tensor& from, const Tensor& to) {
  require(from.numel() == to.numel(), "copy", "the tensors have different numbers of elements");
  if (from.dtype == to.dtype) return copy_bytes(threads_, from.data, to.data, to.bytes());
  const auto convert =
      SPECTRAIN_ISA_SELECT(convert_table).convert[float_index(from, "copy")][float_index(to, "copy")];
  const auto* x = static_cast<const std::byte*>(from.data);
  auto* y = static_cast<std::byte*>(to.data);
  const auto x_size = static_cast<std::int64_t>(size_of(from.dtype));
  const auto y_size = static_cast<std::int64_t>(size_of(to.dtype));
  parallel_ranges(threads_, to.numel(), kElementGrain, [=](std::int64_t begin, std::int64_t end) {
    convert(x + begin * x_size, y + begin * y_size, end - begin);
  });
}

void CpuBackend::copy_from_host(const Tensor& to, const void* from) {
  copy_bytes(threads_, from, to.data, to.bytes());
}

void CpuBackend::copy_to_host(void* to, const Tensor& from) {
  copy_bytes(threads_, from.data, to, from.bytes());
}

}  // namespace spectrain
