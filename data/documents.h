#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace spectrain {

// Files as they are, directories as all regular files below them (sorted by path), "-" as standard input.
// Throws RequestError naming an input that does not exist, a directory without files, or an empty list.
std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs);

// Documents longer than a piece come in several, cut where the cut does not change the ids (utf8.h,
// safe_cut).
struct DocumentPiece {
  std::string text;     // never empty
  bool begins = false;  // the first piece of its document
};

// Reads documents from files one after the other, in memory bounded by a few pieces whatever the files'
// sizes. A file ends a document; so does `split_on` (where not empty), which is no part of the text. A
// separator alone on its line takes the line end before and the one after with it. Empty documents are
// skipped.
class DocumentReader {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

  DocumentReader(std::vector<std::string> files, std::string split_on, std::size_t piece_bytes = kPieceBytes);
  ~DocumentReader();
  DocumentReader(const DocumentReader&) = delete;
  DocumentReader& operator=(const DocumentReader&) = delete;

  // False at the end. Throws Error when a file cannot be read.
  bool next(DocumentPiece& piece);

 private:
  bool open_next();
  void fill();
  void emit(DocumentPiece& piece, std::size_t text_bytes, std::size_t consumed, bool document_goes_on);

  std::vector<std::string> files_;
  std::string split_on_;
  std::size_t piece_bytes_;
  std::size_t next_file_ = 0;
  int descriptor_ = -1;
  bool at_end_ = false;  // of the open file
  std::string buffer_;
  std::size_t head_ = 0;  // buffer_ before it is consumed
  bool in_document_ = false, at_line_start_ = true;
};

// Processors this process may run on.
int available_threads();

inline constexpr std::size_t kPiecesPerBatch = 65536;

// Reads all pieces in batches of at most kPiecesPerBatch; calls work(worker, index, piece) for each piece of
// a batch on up to `threads` threads (0: available_threads()), worker being the thread's number, 0 to threads
// - 1, and index the piece's place in the batch; then after(batch) on the calling thread, batch by batch in
// the order of the text. The first exception of any of them ends it and is thrown here.
void for_each_piece(
    DocumentReader& reader, int threads,
    const std::function<void(int worker, std::size_t index, const DocumentPiece& piece)>& work,
    const std::function<void(const std::vector<DocumentPiece>& batch)>& after);

}  // namespace spectrain
