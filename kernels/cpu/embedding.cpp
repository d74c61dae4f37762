#include "kernels/cpu/isa/embedding.h"

#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

std::size_t dtype_index(const Tensor& t) { return t.dtype == DType::bf16 ? 1 : 0; }

// A wild token would write into memory that is not the table's; looking at each costs nothing beside its row.
void require_tokens(const Tensor& tokens, std::int64_t rows, const char* kernel) {
  const std::int32_t* p = tokens.as<std::int32_t>();
  for (std::int64_t i = 0; i < tokens.numel(); ++i)
    if (p[i] < 0 || p[i] >= rows)
      throw std::logic_error(
          fmt::format("{}: token {} at place {} is outside the table of {} rows", kernel, p[i], i, rows));
}

void require_positions(const Tensor& positions, std::int64_t context, std::int64_t cols, const char* kernel) {
  if (!positions) return;
  require(positions.dtype == DType::f32 && positions.cols() == cols, kernel,
          "positions must be f32 and as wide as the table");
  require(context > 0 && positions.rows() >= context, kernel, "positions has fewer rows than the context");
}

}  // namespace

void CpuBackend::embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions,
                           std::int64_t context, const Tensor& out) {
  const std::int64_t C = table.cols();
  require_compute(out, "embedding", "out");
  require(table.dtype == DType::f32, "embedding", "the table must be f32");
  require(out.numel() == tokens.numel() * C, "embedding", "out must be [tokens, width of the table]");
  require_positions(positions, context, C, "embedding");
  require_tokens(tokens, table.rows(), "embedding");
  EmbeddingForward p;
  p.tokens = tokens.as<std::int32_t>();
  p.table = table.as<float>();
  p.positions = positions ? positions.as<float>() : nullptr;
  p.context = context;
  p.cols = C;
  p.out = out.data;
  const auto rows = SPECTRAIN_ISA_SELECT(embedding_table).forward[dtype_index(out)];
  parallel_ranges(threads_, tokens.numel(),
                  std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, C)),
                  [&](std::int64_t begin, std::int64_t end) { rows(p, begin, end); });
}

void CpuBackend::embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                                    const Tensor& dtable, const Tensor& dpositions) {
  const std::int64_t R = tokens.numel(), C = dout.cols();
  require_compute(dout, "embedding_backward", "dout");
  require(dout.rows() == R, "embedding_backward", "dout must have one row for each token");
  require_positions(dpositions, context, C, "embedding_backward");
  EmbeddingBackward p;
  if (dtable) {
    require(dtable.cols() == C, "embedding_backward", "dtable must be as wide as dout");
    require_tokens(tokens, dtable.rows(), "embedding_backward");
    p.dtable = dtable.as<float>();
  }
  p.tokens = tokens.as<std::int32_t>();
  p.dout = dout.data;
  p.rows = R;
  p.context = context;
  p.cols = C;
  p.dpositions = dpositions ? dpositions.as<float>() : nullptr;
  const auto columns = SPECTRAIN_ISA_SELECT(embedding_table).backward[dtype_index(dout)];
  // A grain of 64 columns is four cache lines of the table: narrower strips would waste what is fetched.
  parallel_ranges(R * C < kElementGrain ? 1 : threads_, C, 64,
                  [&](std::int64_t begin, std::int64_t end) { columns(p, begin, end); });
}

}  // namespace spectrain
