#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "train/durable_file.h"

// The safetensors format (huggingface/safetensors): 8 bytes little-endian header length, a JSON object
// {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the raw
// tensors, little-endian, row-major, without holes.

namespace spectrain {

enum class StoredType : std::uint8_t {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64
};
std::size_t size_of(StoredType type);
std::string_view name_of(StoredType type);  // "F32", "BF16", ...
StoredType stored_type_of(DType dtype);

// One tensor of a file. `begin` counts from the start of the data, not of the file.
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<std::int64_t> dims;
  std::uint64_t begin = 0, bytes = 0;
  std::int64_t numel() const;
  std::string shape_text() const;  // "[768, 2304]"
};

// An open file. The constructor checks everything a header can get wrong: its length, its JSON, unknown
// dtypes, duplicate names, sizes that do not match shapes, tensors out of bounds, overlapping or with holes
// between them. Throws RequestError with one sentence naming the file and the tensor, Error when the file
// cannot be read.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::string path);

  const std::string& path() const { return file_.path(); }
  std::uint64_t data_begin() const { return data_begin_; }               // byte of the file
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in the order of their data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const StoredTensor* find(std::string_view name) const;  // nullptr when there is none
  const StoredTensor& at(std::string_view name) const;    // RequestError when there is none

  // The raw bytes from `offset` of the tensor on.
  void read(const StoredTensor& tensor, std::uint64_t offset, void* to, std::size_t count) const;
  // Into memory of the backend, a piece at a time. Dtype and shape must be the tensor's: RequestError.
  void read(const StoredTensor& tensor, Backend& backend, const Tensor& into) const;
  // The same for a tensor that may be a part of the stored one.
  void read(Backend& backend, const StateTensor& into) const;
  // Throws RequestError naming the tensor unless its dtype and shape are those of `into`.
  void expect(const StoredTensor& tensor, const Tensor& into) const;
  // As floats, from F64 (rounded), F32, BF16 or F16 (exact): RequestError for other types.
  std::vector<float> read_floats(std::string_view name) const;

 private:
  void check_layout(std::uint64_t data_bytes);
  void read_from(const StoredTensor& tensor, std::uint64_t offset, Backend& backend,
                 const Tensor& into) const;

  InputFile file_;
  std::uint64_t data_begin_ = 0;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

struct WrittenFile {
  std::uint64_t bytes = 0, checksum = 0;
};

// For a file that several processes write together: one lays it out, with its header and room for every
// tensor of the layout (whole tensors; their memory is not looked at), and then each process writes the
// tensors or parts of tensors it has. What nobody writes is zero. Both are synced. Errors as below.
void lay_out_safetensors(const std::string& path, std::span<const StateTensor> layout,
                         const std::map<std::string, std::string>& metadata);
void write_pieces(const std::string& path, std::span<const StateTensor> pieces, Backend& backend);

// Writes the tensors, 64-byte aligned as a whole and each aligned to its elements (larger types first, else
// in the given order; the header is padded with spaces). `backend` null: the tensors are host memory and are
// written from where they are. Else they are copied out a piece at a time. The file is synced. Throws Error
// when it cannot be written, std::logic_error for a name given twice, empty or reserved.
WrittenFile write_safetensors(const std::string& path, std::span<const StateTensor> tensors,
                              const std::map<std::string, std::string>& metadata, Backend* backend = nullptr);

}  // namespace spectrain
