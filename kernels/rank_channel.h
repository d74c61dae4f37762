#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "kernels/sockets.h"

// Small messages between a rank and rank 0: how ranks meet and how they hear of each other's end.

namespace spectrain {

enum class Notice : std::uint32_t {
  hello,     // to rank 0: rank, ranks, port for the other ranks
  welcome,   // from rank 0: everybody's address
  stuck,     // to rank 0: an operation does not move
  question,  // from rank 0: where do you stand?
  answer,    // to rank 0
  failure,   // to rank 0: this rank cannot go on
  verdict,   // from rank 0: why the run ends, and who says so
  goodbye,   // to rank 0: this rank has finished
  farewell,  // from rank 0: all have
};

struct Frame {
  Notice notice = Notice::hello;
  std::string body;
};

// Values packed one after the other, in this machine's byte order.
class Packer {
 public:
  template <class T>
  Packer& add(T value) {
    static_assert(std::is_arithmetic_v<T>);
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Packer& add_text(std::string_view rest) {
    text_ += rest;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// The same, read back. Past the end come zeros; whole() says that there were enough.
class Unpacker {
 public:
  explicit Unpacker(std::string_view text) : text_(text) {}
  template <class T>
  T take() {
    T value{};
    if (text_.size() < sizeof value) {
      whole_ = false;
      text_ = {};
      return value;
    }
    std::memcpy(&value, text_.data(), sizeof value);
    text_.remove_prefix(sizeof value);
    return value;
  }
  std::string rest() const { return std::string(text_); }
  bool whole() const { return whole_; }

 private:
  std::string_view text_;
  bool whole_ = true;
};

class Channel {
 public:
  Channel() = default;
  explicit Channel(Socket socket) : socket_(std::move(socket)) {}

  void send(Notice notice, std::string_view body = {});
  void flush();                // what send() could not get rid of
  bool receive(Frame& frame);  // the next whole frame; never waits
  // The other end is gone, or was never one of us, and every whole frame it sent has been taken.
  bool closed() const { return closed_; }
  bool wants_to_write() const { return !closed_ && !out_.empty(); }
  const Socket& socket() const { return socket_; }
  // Leaves the connection to the end of the process.
  void abandon() { socket_.release(); }
  void end() {
    socket_ = Socket();
    closed_ = true;
  }

 private:
  bool next_frame(Frame& frame);
  Socket socket_;
  std::string in_, out_;
  bool closed_ = false, ended_ = false;
};

}  // namespace spectrain
