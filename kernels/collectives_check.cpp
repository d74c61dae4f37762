#include "kernels/collectives_check.h"

#include <stdexcept>

#include "fmt/format.h"

namespace spectrain {
namespace {

void check_memory(const Tensor& x, const char* operation, std::string_view what) {
  if (!x && x.numel() != 0)
    throw std::logic_error(
        fmt::format("{} of {}: a tensor {} without memory", operation, what, x.shape.str()));
}

void check_parts(const Tensor& whole, const Tensor& part, int ranks, const char* operation,
                 std::string_view what) {
  check_memory(whole, operation, what);
  check_memory(part, operation, what);
  if (whole.dtype != part.dtype || whole.numel() != ranks * part.numel())
    throw std::logic_error(fmt::format("{} of {}: {} {} is not {} times {} {}", operation, what,
                                       name_of(whole.dtype), whole.shape.str(), ranks, name_of(part.dtype),
                                       part.shape.str()));
}

void check_root(int root, int ranks, const char* operation, std::string_view what) {
  if (root < 0 || root >= ranks)
    throw std::logic_error(
        fmt::format("{} of {}: there is no rank {} among {}", operation, what, root, ranks));
}

}  // namespace

void check_all_reduce(const Tensor& x, Reduce op, std::string_view what) {
  check_memory(x, "all_reduce", what);
  if (op == Reduce::max && x.dtype == DType::bf16)
    throw std::logic_error(fmt::format("all_reduce of {}: Reduce::max is not there for bf16", what));
}

void check_reduce_scatter(const Tensor& from, const Tensor& to, int ranks, std::string_view what) {
  check_parts(from, to, ranks, "reduce_scatter", what);
}

void check_reduce(const Tensor& from, const Tensor& to, int root, int rank, int ranks,
                  std::string_view what) {
  check_root(root, ranks, "reduce", what);
  if (rank == root) check_parts(from, to, 1, "reduce", what);
  check_memory(from, "reduce", what);
}

void check_all_gather(const Tensor& from, const Tensor& to, int ranks, std::string_view what) {
  check_parts(to, from, ranks, "all_gather", what);
}

void check_broadcast(const Tensor& x, int root, int ranks, std::string_view what) {
  check_memory(x, "broadcast", what);
  check_root(root, ranks, "broadcast", what);
}

}  // namespace spectrain
