#pragma once

#include <cstdint>
#include <vector>

#include "data/images.h"
#include "train/lab/classifier.h"

namespace spectrain::lab {

// Images as numbers: (pixel / 255 - mean) / deviation of their channel, channels last.
struct ChannelScale {
  std::vector<double> mean, deviation;
};
Examples normalised(const ImageSet& set, std::int64_t count, const ChannelScale& scale);
const ChannelScale& cifar10_scale();  // (.4914, .4822, .4465), (.2470, .2435, .2616)

// A square picture of `channels` channels on the tape: [batch * side * side, channels].
struct Picture2d {
  Value x;
  std::int64_t batch = 0, side = 0, channels = 0;
};
// The real input [batch, side side channels] of a classifier as a picture.
Picture2d as_picture(Tape& t, Value x, std::int64_t batch, std::int64_t side, std::int64_t channels);
// Square filters [out, kernel kernel channels] under `name`, role hidden, padded by `padding`.
Picture2d convolve(Tape& t, const Picture2d& in, const std::string& name, std::int64_t out,
                   std::int64_t kernel, std::int64_t padding, Initializer init);
Picture2d pooled(Tape& t, PoolKind kind, const Picture2d& in, std::int64_t kernel);  // whole squares only
// All of it as one row each: [batch, side side channels].
Value flattened(Tape& t, const Picture2d& in);

// x of `rows` examples of side side channels numbers into out, each flipped left to right where flip[i].
void copy_flipped(const Examples& from, std::span<const std::int64_t> rows,
                  std::span<const std::uint8_t> flip, std::int64_t side, std::int64_t channels,
                  std::span<float> out);
// The same square seen through a window of its own size that is moved by dx, dy pixels, what lies outside
// reflected.
void copy_shifted(std::span<const float> image, std::int64_t side, std::int64_t channels, std::int64_t dx,
                  std::int64_t dy, std::span<float> out);

}  // namespace spectrain::lab
