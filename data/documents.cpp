#include "data/documents.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "data/utf8.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;

std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    std::error_code ignored;
    if (input == "-" || (fs::exists(input, ignored) && !fs::is_directory(input, ignored))) {
      files.push_back(input);
      continue;
    }
    if (!fs::is_directory(input, ignored)) {
      throw RequestError(
          fmt::format("{}: no such file or directory; name text files, directories or - for standard "
                      "input",
                      input));
    }
    std::vector<std::string> found;
    try {
      for (const auto& entry : fs::recursive_directory_iterator(input)) {
        if (entry.is_regular_file()) found.push_back(entry.path().string());
      }
    } catch (const fs::filesystem_error& error) {
      throw RequestError(fmt::format("{}: cannot be listed: {}", input, error.code().message()));
    }
    if (found.empty())
      throw RequestError(fmt::format("{}: the directory holds no files; name another", input));
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  if (files.empty()) throw RequestError("no text was named; give files, directories or - for standard input");
  return files;
}

DocumentReader::DocumentReader(std::vector<std::string> files, std::string split_on, std::size_t piece_bytes)
    : files_(std::move(files)),
      split_on_(std::move(split_on)),
      piece_bytes_(std::max<std::size_t>(piece_bytes, 16)) {}

DocumentReader::~DocumentReader() {
  if (descriptor_ > STDIN_FILENO) ::close(descriptor_);
}

bool DocumentReader::open_next() {
  if (descriptor_ > STDIN_FILENO) ::close(descriptor_);
  descriptor_ = -1;
  if (next_file_ == files_.size()) return false;
  const std::string& file = files_[next_file_++];
  descriptor_ = file == "-" ? STDIN_FILENO : ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw Error(fmt::format("{}: cannot be opened: {}", file, std::strerror(errno)));
  at_end_ = false;
  in_document_ = false;
  at_line_start_ = true;
  buffer_.clear();
  head_ = 0;
  return true;
}

// Afterwards the buffer holds a piece, the separator and one byte on either side of it, or the file's end.
void DocumentReader::fill() {
  const std::size_t needed = piece_bytes_ + split_on_.size() + 2;
  if (at_end_ || buffer_.size() - head_ >= needed) return;
  buffer_.erase(0, head_);
  head_ = 0;
  std::size_t held = buffer_.size();
  // Much more than needed at once, so that what is left over is moved seldom.
  buffer_.resize(needed + 8 * piece_bytes_);
  while (held < buffer_.size()) {
    const ssize_t got = ::read(descriptor_, buffer_.data() + held, buffer_.size() - held);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(fmt::format("{}: cannot be read: {}", files_[next_file_ - 1], std::strerror(errno)));
    }
    at_end_ = got == 0;
    if (at_end_) break;
    held += static_cast<std::size_t>(got);
  }
  buffer_.resize(held);
}

void DocumentReader::emit(DocumentPiece& piece, std::size_t text_bytes, std::size_t consumed,
                          bool document_goes_on) {
  piece.text.assign(buffer_, head_, text_bytes);
  piece.begins = !in_document_;
  in_document_ = document_goes_on;
  head_ += consumed;
  at_line_start_ = consumed > 0 ? buffer_[head_ - 1] == '\n' : at_line_start_;
}

bool DocumentReader::next(DocumentPiece& piece) {
  while (true) {
    if (descriptor_ < 0 && !open_next()) return false;
    fill();
    const std::string_view view = std::string_view(buffer_).substr(head_);
    const std::size_t length = split_on_.size();
    const std::size_t at =
        length ? view.substr(0, piece_bytes_ + length).find(split_on_) : std::string_view::npos;
    if (at != std::string_view::npos) {
      const bool line_before = at > 0 ? view[at - 1] == '\n' : at_line_start_;
      const bool line_after = at + length == view.size() || view[at + length] == '\n';
      const bool alone = line_before && line_after;
      const std::size_t text_bytes = at - (alone && at > 0 ? 1 : 0);
      emit(piece, text_bytes, std::min(view.size(), at + length + (alone ? 1 : 0)), false);
    } else if (view.size() <= piece_bytes_) {
      emit(piece, view.size(), view.size(), false);
      if (!open_next()) next_file_ = files_.size();
    } else {
      const std::size_t cut = safe_cut(view, piece_bytes_);
      emit(piece, cut, cut, true);
    }
    if (!piece.text.empty()) return true;
  }
}

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int count = ::sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
  return count > 0 ? count : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

void for_each_piece(DocumentReader& reader, int threads,
                    const std::function<void(int, std::size_t, const DocumentPiece&)>& work,
                    const std::function<void(const std::vector<DocumentPiece>&)>& after) {
  const int workers = threads > 0 ? threads : available_threads();
  const std::size_t batch_bytes = 8 * DocumentReader::kPieceBytes * static_cast<std::size_t>(workers);
  std::vector<DocumentPiece> batch;
  bool more = true;
  while (more) {
    batch.clear();
    for (std::size_t bytes = 0; bytes < batch_bytes && batch.size() < kPiecesPerBatch;) {
      DocumentPiece piece;
      more = reader.next(piece);
      if (!more) break;
      bytes += piece.text.size();
      batch.push_back(std::move(piece));
    }
    std::atomic<std::size_t> next = 0;
    std::exception_ptr failure;
    std::mutex mutex;
    const auto run = [&](int worker) {
      try {
        for (std::size_t i; (i = next.fetch_add(1)) < batch.size();) work(worker, i, batch[i]);
      } catch (...) {
        next = batch.size();
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> others;  // joined at the end of this block
      const int useful = std::min(workers, static_cast<int>(batch.size()));
      for (int worker = 1; worker < useful; ++worker) others.emplace_back(run, worker);
      run(0);
    }
    if (failure) std::rethrow_exception(failure);
    after(batch);
  }
}

}  // namespace spectrain
