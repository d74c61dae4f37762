#include "train/lab/convnets.h"

#include <algorithm>
#include <cmath>

namespace spectrain::lab {

Examples normalised(const ImageSet& set, std::int64_t count, const ChannelScale& scale) {
  Examples e;
  e.width = set.size();
  const auto channels = static_cast<std::size_t>(set.channels);
  for (std::int64_t i = 0; i < std::min(count, set.count()); ++i) {
    const auto image = set.image(i);
    for (std::size_t p = 0; p < image.size(); ++p)
      e.x.push_back(
          static_cast<float>((image[p] / 255.0 - scale.mean[p % channels]) / scale.deviation[p % channels]));
    e.label.push_back(set.labels[static_cast<std::size_t>(i)]);
  }
  return e;
}

const ChannelScale& cifar10_scale() {
  static const ChannelScale scale{{.4914, .4822, .4465}, {.2470, .2435, .2616}};
  return scale;
}

Picture2d as_picture(Tape& t, Value x, std::int64_t batch, std::int64_t side, std::int64_t channels) {
  return {t.reshape(x, {batch * side * side, channels}), batch, side, channels};
}

Picture2d convolve(Tape& t, const Picture2d& in, const std::string& name, std::int64_t out,
                   std::int64_t kernel, std::int64_t padding, Initializer init) {
  const Patches p{.batch = in.batch,
                  .height = in.side,
                  .width = in.side,
                  .channels = in.channels,
                  .kernel_height = kernel,
                  .kernel_width = kernel,
                  .stride = 1,
                  .padding = padding};
  const Value filters = t.parameter(name, {out, p.patch()}, Role::hidden, init);
  return {t.convolution(in.x, filters, p), in.batch, p.out_height(), out};
}

Picture2d pooled(Tape& t, PoolKind kind, const Picture2d& in, std::int64_t kernel) {
  const Patches p{.batch = in.batch,
                  .height = in.side,
                  .width = in.side,
                  .channels = in.channels,
                  .kernel_height = kernel,
                  .kernel_width = kernel,
                  .stride = kernel};
  return {t.pool(kind, in.x, p), in.batch, p.out_height(), in.channels};
}

Value flattened(Tape& t, const Picture2d& in) {
  return t.reshape(in.x, {in.batch, in.side * in.side * in.channels});
}

void copy_flipped(const Examples& from, std::span<const std::int64_t> rows,
                  std::span<const std::uint8_t> flip, std::int64_t side, std::int64_t channels,
                  std::span<float> out) {
  const auto width = static_cast<std::size_t>(from.width), line = static_cast<std::size_t>(side * channels),
             pixel = static_cast<std::size_t>(channels);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float* image = from.x.data() + static_cast<std::size_t>(rows[i]) * width;
    float* to = out.data() + i * width;
    if (!flip[i]) {
      std::copy_n(image, width, to);
      continue;
    }
    for (std::size_t y = 0; y < static_cast<std::size_t>(side); ++y)
      for (std::size_t x = 0; x < static_cast<std::size_t>(side); ++x)
        std::copy_n(image + y * line + (static_cast<std::size_t>(side) - 1 - x) * pixel, pixel,
                    to + y * line + x * pixel);
  }
}

void copy_shifted(std::span<const float> image, std::int64_t side, std::int64_t channels, std::int64_t dx,
                  std::int64_t dy, std::span<float> out) {
  const auto inside = [side](std::int64_t k) { return k < 0 ? -k : k >= side ? 2 * (side - 1) - k : k; };
  for (std::int64_t y = 0; y < side; ++y)
    for (std::int64_t x = 0; x < side; ++x)
      for (std::int64_t c = 0; c < channels; ++c)
        out[static_cast<std::size_t>((y * side + x) * channels + c)] =
            image[static_cast<std::size_t>((inside(y + dy) * side + inside(x + dx)) * channels + c)];
}

}  // namespace spectrain::lab
