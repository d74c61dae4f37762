#include "kernels/row_checks.h"

#include <fmt/format.h>

#include <limits>

#include "kernels/cpu/checks.h"

namespace spectrain {

void require_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                     std::int64_t count) {
  const auto within = [&](const Tensor& t, std::int64_t first) {
    return t.shape.rank() == 2 && first >= 0 && count >= 0 && first + count <= t.cols();
  };
  if (!within(y, y_first) || (x && (!within(x, x_first) || x.dtype != y.dtype || x.rows() != y.rows())))
    throw std::logic_error(fmt::format("copy_columns: {} columns from {} of x {} {} to {} of y {} {}", count,
                                       x_first, name_of(x.dtype), x.shape.str(), y_first, name_of(y.dtype),
                                       y.shape.str()));
}

void require_pool(const Patches& p, const Tensor& x, const Tensor& y, const char* kernel) {
  require(p.padding == 0 && p.kernel_height >= 1 && p.kernel_width >= 1 && p.stride >= p.kernel_height &&
              p.stride >= p.kernel_width && p.kernel_height <= p.height && p.kernel_width <= p.width,
          kernel, [&] {
            return fmt::format("a pool of {} x {} at every {} pixels of images {} x {} with a border of {}",
                               p.kernel_height, p.kernel_width, p.stride, p.height, p.width, p.padding);
          });
  require(x.dtype == y.dtype && x.numel() == p.pixels() * p.channels && y.numel() == p.places() * p.channels,
          kernel, [&] {
            return fmt::format("x {} {} and y {} {} are not [{}, {}] and [{}, {}]", name_of(x.dtype),
                               x.shape.str(), name_of(y.dtype), y.shape.str(), p.pixels(), p.channels,
                               p.places(), p.channels);
          });
}

void require_patches(const Patches& p, const Tensor& x, const Tensor& rows, const char* kernel) {
  require(p.batch >= 0 && p.height >= 1 && p.width >= 1 && p.channels >= 1 && p.kernel_height >= 1 &&
              p.kernel_width >= 1 && p.stride >= 1 && p.padding >= 0 &&
              p.kernel_height <= p.height + 2 * p.padding && p.kernel_width <= p.width + 2 * p.padding,
          kernel, [&] {
            return fmt::format(
                "patches of {} x {} at every {} pixels of images {} x {} x {} with a border of {}",
                p.kernel_height, p.kernel_width, p.stride, p.height, p.width, p.channels, p.padding);
          });
  require(
      x.dtype == rows.dtype && x.numel() == p.pixels() * p.channels && rows.numel() == p.places() * p.patch(),
      kernel, [&] {
        return fmt::format("x {} {} and rows {} {} are not [{}, {}] and [{}, {}]", name_of(x.dtype),
                           x.shape.str(), name_of(rows.dtype), rows.shape.str(), p.pixels(), p.channels,
                           p.places(), p.patch());
      });
}

void require_top_rows(const Tensor& scores, const Tensor& indices) {
  require(indices.dtype == DType::i32, "top_rows", "indices are not i32");
  require(scores.numel() <= std::numeric_limits<std::int32_t>::max(), "top_rows",
          "more rows than an i32 can count");
  require(indices.numel() <= scores.numel(), "top_rows",
          [&] { return fmt::format("{} of {} rows are asked for", indices.numel(), scores.numel()); });
}

void require_rows(const Tensor& all, const Tensor& indices, const Tensor& some, const char* kernel) {
  require(indices.dtype == DType::i32, kernel, "indices are not i32");
  require(all.shape.rank() == 2 && some.shape.rank() == 2 && all.cols() == some.cols() &&
              some.rows() == indices.numel(),
          kernel, [&] {
            return fmt::format("{} rows of {} and {} do not fit", indices.numel(), all.shape.str(),
                               some.shape.str());
          });
}

void require_indices(const Tensor& indices, std::int64_t rows, const char* kernel) {
  const std::int32_t* const at = indices.as<std::int32_t>();
  for (std::int64_t i = 0; i < indices.numel(); ++i)
    require(at[i] >= 0 && at[i] < rows, kernel,
            [&] { return fmt::format("index {} is {}, of {} rows", i, at[i], rows); });
}

}  // namespace spectrain
