#include "kernels/rank_channel.h"

#include <array>

namespace spectrain {
namespace {

constexpr std::uint32_t kMagic = 0x31525053;  // "SPR1": who says something else is none of us
constexpr std::uint32_t kLongest = 1u << 20;  // no notice comes near; a stray may claim anything

struct Header {
  std::uint32_t magic, notice, bytes;
};

}  // namespace

void Channel::send(Notice notice, std::string_view body) {
  if (closed_) return;
  body = body.substr(0, kLongest);
  const Header header{kMagic, static_cast<std::uint32_t>(notice), static_cast<std::uint32_t>(body.size())};
  out_.append(reinterpret_cast<const char*>(&header), sizeof header);
  out_ += body;
  flush();
}

void Channel::flush() {
  while (!closed_ && !out_.empty()) {
    const std::int64_t n = put(socket_, out_.data(), out_.size());
    if (n == 0) return;
    // What the other side said before it went is still to be read: receive() finds out about the end.
    out_.erase(0, n < 0 ? out_.size() : static_cast<std::size_t>(n));
  }
}

bool Channel::next_frame(Frame& frame) {
  Header header;
  if (in_.size() < sizeof header) return false;
  std::memcpy(&header, in_.data(), sizeof header);
  if (header.magic != kMagic || header.bytes > kLongest ||
      header.notice > static_cast<std::uint32_t>(Notice::farewell)) {
    ended_ = true;
    in_.clear();
    return false;
  }
  if (in_.size() < sizeof header + header.bytes) return false;
  frame.notice = static_cast<Notice>(header.notice);
  frame.body = in_.substr(sizeof header, header.bytes);
  in_.erase(0, sizeof header + header.bytes);
  return true;
}

bool Channel::receive(Frame& frame) {
  if (closed_) return false;
  if (next_frame(frame)) return true;
  std::array<char, 4096> some;
  while (!ended_) {
    const std::int64_t n = take(socket_, some.data(), some.size());
    if (n == 0) return false;
    if (n < 0) {
      ended_ = true;
      break;
    }
    in_.append(some.data(), static_cast<std::size_t>(n));
    if (next_frame(frame)) return true;
  }
  closed_ = true;
  return false;
}

}  // namespace spectrain
