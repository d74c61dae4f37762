#include <fmt/format.h>
#include <lzma.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "data/images.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::size_t kPiece = std::size_t{1} << 16;

Bytes read_whole(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw RequestError(fmt::format("{}: cannot be read ({})", path, std::strerror(errno)));
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void append(Bytes& out, const std::uint8_t* piece, std::size_t count, std::size_t most,
            const std::string& path) {
  if (out.size() + count > most)
    throw RequestError(
        fmt::format("{}: unpacks to more than {} bytes; this is no file of images", path, most));
  out.insert(out.end(), piece, piece + count);
}

Bytes gunzip(const Bytes& packed, std::size_t most, const std::string& path) {
  z_stream stream{};
  if (inflateInit2(&stream, 15 + 16) != Z_OK) throw Error("zlib does not start");  // 16: with gzip's header
  Bytes out, piece(kPiece);
  stream.next_in = const_cast<Bytef*>(packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  int state = Z_OK;
  try {
    while (state == Z_OK) {
      stream.next_out = piece.data();
      stream.avail_out = static_cast<uInt>(piece.size());
      state = inflate(&stream, Z_NO_FLUSH);
      append(out, piece.data(), piece.size() - stream.avail_out, most, path);
    }
  } catch (...) {
    inflateEnd(&stream);
    throw;
  }
  inflateEnd(&stream);
  if (state != Z_STREAM_END) throw RequestError(fmt::format("{}: is cut off or damaged (gzip)", path));
  return out;
}

Bytes unxz(const Bytes& packed, std::size_t most, const std::string& path) {
  lzma_stream stream = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&stream, UINT64_MAX, 0) != LZMA_OK) throw Error("liblzma does not start");
  Bytes out, piece(kPiece);
  stream.next_in = packed.data();
  stream.avail_in = packed.size();
  lzma_ret state = LZMA_OK;
  try {
    while (state == LZMA_OK) {
      stream.next_out = piece.data();
      stream.avail_out = piece.size();
      state = lzma_code(&stream, LZMA_FINISH);
      append(out, piece.data(), piece.size() - stream.avail_out, most, path);
    }
  } catch (...) {
    lzma_end(&stream);
    throw;
  }
  lzma_end(&stream);
  if (state != LZMA_STREAM_END) throw RequestError(fmt::format("{}: is cut off or damaged (xz)", path));
  return out;
}

}  // namespace

std::vector<std::uint8_t> read_unpacked(const std::string& path, std::size_t most) {
  Bytes bytes = read_whole(path);
  if (path.ends_with(".gz")) return gunzip(bytes, most, path);
  if (path.ends_with(".xz")) return unxz(bytes, most, path);
  if (bytes.size() > most)
    throw RequestError(fmt::format("{}: {} bytes are more than the {} that a file of images may have", path,
                                   bytes.size(), most));
  return bytes;
}

}  // namespace spectrain
