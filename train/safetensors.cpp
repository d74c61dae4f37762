#include "train/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kernels/error.h"

namespace spectrain {
namespace {

using nlohmann::json;

// The format's own limit; a length beyond it is a file of another kind.
constexpr std::uint64_t kLargestHeader = 100'000'000;

struct TypeInfo {
  StoredType type;
  std::string_view name;
  std::size_t bytes;
};
constexpr TypeInfo kTypes[] = {
    {StoredType::boolean, "BOOL", 1},    {StoredType::u8, "U8", 1},           {StoredType::i8, "I8", 1},
    {StoredType::f8_e5m2, "F8_E5M2", 1}, {StoredType::f8_e4m3, "F8_E4M3", 1}, {StoredType::i16, "I16", 2},
    {StoredType::u16, "U16", 2},         {StoredType::f16, "F16", 2},         {StoredType::bf16, "BF16", 2},
    {StoredType::i32, "I32", 4},         {StoredType::u32, "U32", 4},         {StoredType::f32, "F32", 4},
    {StoredType::f64, "F64", 8},         {StoredType::i64, "I64", 8},         {StoredType::u64, "U64", 8},
};

// "a, b, c". Not fmt::join: with it g++ 12 warns about the library's own code.
std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += between;
    text += part;
  }
  return text;
}

std::string joined(const std::vector<std::int64_t>& dims, std::string_view between) {
  std::vector<std::string> parts;
  for (const std::int64_t dim : dims) parts.push_back(std::to_string(dim));
  return joined(parts, between);
}

const TypeInfo& info(StoredType type) { return kTypes[static_cast<std::size_t>(type)]; }

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw RequestError(fmt::format("{} is not a safetensors file that can be read: {}", path, what));
}

[[noreturn]] void refuse(const std::string& path, const std::string& tensor, const std::string& what) {
  throw RequestError(fmt::format("{}: tensor '{}' {}", path, tensor, what));
}

// The JSON parser silently keeps the last of equal keys; the format forbids them at both levels that matter.
json parse_header(const std::string& path, const std::string& text) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      refuse(path, fmt::format("its header has the key '{}' twice", value.get<std::string>()));
    return true;
  };
  try {
    json header = json::parse(text, watch);
    if (!header.is_object()) refuse(path, "its header is not a JSON object");
    return header;
  } catch (const json::exception& e) {
    refuse(path, fmt::format("its header is not valid JSON ({})", e.what()));
  }
}

std::map<std::string, std::string> parse_metadata(const std::string& path, const json& value) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) refuse(path, "__metadata__ is not an object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) refuse(path, fmt::format("__metadata__ '{}' is not a text", key));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

std::vector<std::int64_t> parse_shape(const std::string& path, const std::string& name, const json& value) {
  if (!value.is_array()) refuse(path, name, "has no list 'shape'");
  std::vector<std::int64_t> dims;
  for (const json& dim : value) {
    if (!dim.is_number_unsigned() || dim.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())
      refuse(path, name, fmt::format("has a shape with {} in it", dim.dump()));
    dims.push_back(dim.get<std::int64_t>());
  }
  return dims;
}

// Bytes of the shape, refusing products that do not fit 64 bits.
std::uint64_t bytes_of(const std::string& path, const StoredTensor& tensor) {
  std::uint64_t bytes = size_of(tensor.type);
  for (const std::int64_t dim : tensor.dims)
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dim), &bytes) || bytes > (1ull << 62))
      refuse(path, tensor.name, fmt::format("has the impossible shape {}", tensor.shape_text()));
  return bytes;
}

StoredTensor parse_tensor(const std::string& path, const std::string& name, const json& value) {
  if (!value.is_object()) refuse(path, name, "is not described by an object");
  for (const auto& [key, unused] : value.items())
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      refuse(path, name, fmt::format("has the unknown field '{}'", key));
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!value.contains(key)) refuse(path, name, fmt::format("has no '{}'", key));

  StoredTensor tensor;
  tensor.name = name;
  const json& dtype = value["dtype"];
  const auto* known = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeInfo& t) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == t.name;
  });
  if (known == std::end(kTypes)) refuse(path, name, fmt::format("has the unknown dtype {}", dtype.dump()));
  tensor.type = known->type;
  tensor.dims = parse_shape(path, name, value["shape"]);

  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned() || offsets[0].get<std::uint64_t>() > offsets[1].get<std::uint64_t>())
    refuse(path, name, fmt::format("has the data_offsets {}, not [begin, end]", offsets.dump()));
  tensor.begin = offsets[0].get<std::uint64_t>();
  tensor.bytes = offsets[1].get<std::uint64_t>() - tensor.begin;
  const std::uint64_t expected = bytes_of(path, tensor);
  if (tensor.bytes != expected)
    refuse(path, name,
           fmt::format("of shape {} {} needs {} bytes but its data_offsets {} hold {}", tensor.shape_text(),
                       name_of(tensor.type), expected, offsets.dump(), tensor.bytes));
  return tensor;
}

// Memory of a device goes through a host buffer of this size.
constexpr std::size_t kPiece = std::size_t{4} << 20;

Tensor piece_of(const Tensor& t, std::size_t offset, std::size_t bytes) {
  return {static_cast<std::byte*>(t.data) + offset, t.dtype,
          Shape{static_cast<std::int64_t>(bytes / size_of(t.dtype))}};
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in float
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

std::string header_text(const std::map<std::string, std::string>& metadata,
                        const std::vector<const StateTensor*>& order) {
  std::vector<std::string> entries;
  if (!metadata.empty()) entries.push_back(fmt::format("\"__metadata__\":{}", json(metadata).dump()));
  std::uint64_t begin = 0;
  for (const StateTensor* t : order) {
    std::vector<std::int64_t> dims;
    for (int i = 0; i < t->tensor.shape.rank(); ++i) dims.push_back(t->tensor.shape[i]);
    entries.push_back(fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                                  json(t->name).dump(), name_of(stored_type_of(t->tensor.dtype)),
                                  joined(dims, ","), begin, begin + t->tensor.bytes()));
    begin += t->tensor.bytes();
  }
  std::string text = fmt::format("{{{}}}", joined(entries, ","));
  text.resize((8 + text.size() + 63) / 64 * 64 - 8, ' ');
  return text;
}

// Memory of these backends is the host's: a stop in a buffer would only cost threads that others may be
// using.
bool in_host_memory(const Backend& backend) {
  return backend.name() == "cpu" || backend.name() == "reference";
}

void write_tensor(OutputFile& file, const Tensor& tensor, Backend* backend) {
  if (backend == nullptr || in_host_memory(*backend)) return file.write(tensor.data, tensor.bytes());
  std::vector<std::byte> buffer(std::min(kPiece, tensor.bytes()));
  for (std::size_t done = 0; done < tensor.bytes(); done += buffer.size()) {
    const std::size_t count = std::min(buffer.size(), tensor.bytes() - done);
    backend->copy_to_host(buffer.data(), piece_of(tensor, done, count));
    file.write(buffer.data(), count);
  }
}

}  // namespace

std::size_t size_of(StoredType type) { return info(type).bytes; }
std::string_view name_of(StoredType type) { return info(type).name; }

StoredType stored_type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return StoredType::f64;
    case DType::f32:
      return StoredType::f32;
    case DType::bf16:
      return StoredType::bf16;
    case DType::i32:
      return StoredType::i32;
    case DType::f16:
      return StoredType::f16;
  }
  throw std::logic_error("stored_type_of: unknown dtype");
}

std::int64_t StoredTensor::numel() const { return static_cast<std::int64_t>(bytes / size_of(type)); }
std::string StoredTensor::shape_text() const { return fmt::format("[{}]", joined(dims, ", ")); }

SafetensorsFile::SafetensorsFile(std::string path) : file_(std::move(path)) {
  const std::string& name = file_.path();
  if (file_.bytes() < 8) refuse(name, fmt::format("it has only {} bytes", file_.bytes()));
  std::uint64_t length = 0;
  file_.read(0, &length, 8);
  if (length > kLargestHeader || length > file_.bytes() - 8)
    refuse(name, fmt::format("its header length {} does not fit a file of {} bytes (at most {} are allowed)",
                             length, file_.bytes(), kLargestHeader));
  std::string text(length, '\0');
  file_.read(8, text.data(), length);
  if (text.empty() || text[0] != '{') refuse(name, "its header does not begin with '{'");
  data_begin_ = 8 + length;

  const json header = parse_header(name, text);
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__")
      metadata_ = parse_metadata(name, value);
    else
      tensors_.push_back(parse_tensor(name, key, value));
  }
  check_layout(file_.bytes() - data_begin_);
  for (std::size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

void SafetensorsFile::check_layout(std::uint64_t data_bytes) {
  std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.begin, a.begin + a.bytes) < std::pair(b.begin, b.begin + b.bytes);
  });
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const StoredTensor& t = tensors_[i];
    if (t.begin > data_bytes || t.bytes > data_bytes - t.begin)
      refuse(path(), t.name,
             fmt::format("lies at [{}, {}), beyond the {} bytes of data in the file; the file is "
                         "cut short",
                         t.begin, t.begin + t.bytes, data_bytes));
    if (t.begin < end)
      refuse(path(), t.name,
             fmt::format("begins at {}, inside tensor '{}' that ends at {}", t.begin, tensors_[i - 1].name,
                         end));
    if (t.begin > end)
      refuse(path(), t.name, fmt::format("leaves a hole of {} bytes before it", t.begin - end));
    end = t.begin + t.bytes;
  }
  if (end != data_bytes)
    refuse(path(), fmt::format("{} bytes after its last tensor belong to nothing", data_bytes - end));
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const StoredTensor& SafetensorsFile::at(std::string_view name) const {
  if (const StoredTensor* t = find(name)) return *t;
  throw RequestError(fmt::format("{} has no tensor '{}' among its {}", path(), name, tensors_.size()));
}

void SafetensorsFile::read(const StoredTensor& tensor, std::uint64_t offset, void* to,
                           std::size_t count) const {
  if (offset > tensor.bytes || count > tensor.bytes - offset)
    throw std::logic_error(fmt::format("{}: reading beyond tensor '{}'", path(), tensor.name));
  file_.read(data_begin_ + tensor.begin + offset, to, count);
}

void SafetensorsFile::expect(const StoredTensor& tensor, const Tensor& into) const {
  bool same = static_cast<std::size_t>(into.shape.rank()) == tensor.dims.size();
  for (int i = 0; same && i < into.shape.rank(); ++i)
    same = into.shape[i] == tensor.dims[static_cast<std::size_t>(i)];
  if (!same)
    refuse(path(), tensor.name,
           fmt::format("has shape {} where {} is expected", tensor.shape_text(), into.shape.str()));
  if (stored_type_of(into.dtype) != tensor.type)
    refuse(
        path(), tensor.name,
        fmt::format("is {} where {} is expected", name_of(tensor.type), name_of(stored_type_of(into.dtype))));
}

void SafetensorsFile::read(const StoredTensor& tensor, Backend& backend, const Tensor& into) const {
  expect(tensor, into);
  read_from(tensor, 0, backend, into);
}

void SafetensorsFile::read(Backend& backend, const StateTensor& into) const {
  const StoredTensor& tensor = at(into.name);
  expect(tensor, Tensor(nullptr, into.tensor.dtype, into.whole_shape()));
  read_from(tensor, static_cast<std::uint64_t>(into.first) * size_of(into.tensor.dtype), backend,
            into.tensor);
}

void SafetensorsFile::read_from(const StoredTensor& tensor, std::uint64_t offset, Backend& backend,
                                const Tensor& into) const {
  if (in_host_memory(backend)) return read(tensor, offset, into.data, into.bytes());
  std::vector<std::byte> buffer(std::min(kPiece, into.bytes()));
  for (std::size_t done = 0; done < into.bytes(); done += buffer.size()) {
    const std::size_t count = std::min(buffer.size(), into.bytes() - done);
    read(tensor, offset + done, buffer.data(), count);
    backend.copy_from_host(piece_of(into, done, count), buffer.data());
    backend.synchronize();  // the buffer is filled again at once
  }
}

std::vector<float> SafetensorsFile::read_floats(std::string_view name) const {
  const StoredTensor& t = at(name);
  std::vector<std::byte> raw(t.bytes);
  read(t, 0, raw.data(), raw.size());
  std::vector<float> out(static_cast<std::size_t>(t.numel()));
  const auto convert = [&]<class From>(auto&& to_float, const From*) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      From value;
      std::memcpy(&value, raw.data() + i * sizeof(From), sizeof(From));
      out[i] = to_float(value);
    }
  };
  const auto plain = [](auto v) { return static_cast<float>(v); };
  switch (t.type) {
    case StoredType::f64:
      convert(plain, static_cast<const double*>(nullptr));
      break;
    case StoredType::f32:
      convert(plain, static_cast<const float*>(nullptr));
      break;
    case StoredType::bf16:
      convert(plain, static_cast<const bf16*>(nullptr));
      break;
    case StoredType::f16:
      convert(half_to_float, static_cast<const std::uint16_t*>(nullptr));
      break;
    default:
      refuse(path(), t.name,
             fmt::format("is {}, which is not read as floats (F64, F32, BF16 and F16 are)", name_of(t.type)));
  }
  return out;
}

namespace {

// The tensors in the order in which a file holds them, their names checked.
std::vector<const StateTensor*> file_order(std::span<const StateTensor> tensors) {
  std::vector<const StateTensor*> order;
  std::set<std::string_view> names;
  for (const StateTensor& t : tensors) {
    if (t.name.empty() || t.name == "__metadata__" || !names.insert(t.name).second)
      throw std::logic_error(
          fmt::format("write_safetensors: the name '{}' is empty, reserved or given twice", t.name));
    order.push_back(&t);
  }
  std::stable_sort(order.begin(), order.end(), [](const StateTensor* a, const StateTensor* b) {
    return size_of(a->tensor.dtype) > size_of(b->tensor.dtype);
  });
  return order;
}

}  // namespace

void lay_out_safetensors(const std::string& path, std::span<const StateTensor> layout,
                         const std::map<std::string, std::string>& metadata) {
  const std::vector<const StateTensor*> order = file_order(layout);
  const std::string header = header_text(metadata, order);
  OutputFile file(path);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
  std::uint64_t bytes = 0;
  for (const StateTensor* t : order) bytes += t->tensor.bytes();
  file.reserve(bytes);
  file.finish();
}

void write_pieces(const std::string& path, std::span<const StateTensor> pieces, Backend& backend) {
  const SafetensorsFile layout(path);
  PatchedFile file(path);
  backend.synchronize();
  std::vector<std::byte> buffer;
  for (const StateTensor& piece : pieces) {
    const StoredTensor& stored = layout.at(piece.name);
    layout.expect(stored, Tensor(nullptr, piece.tensor.dtype, piece.whole_shape()));
    const std::uint64_t begin = layout.data_begin() + stored.begin +
                                static_cast<std::uint64_t>(piece.first) * size_of(piece.tensor.dtype);
    if (in_host_memory(backend)) {
      file.write(begin, piece.tensor.data, piece.tensor.bytes());
      continue;
    }
    for (std::size_t done = 0; done < piece.tensor.bytes(); done += kPiece) {
      buffer.resize(std::min(kPiece, piece.tensor.bytes() - done));
      backend.copy_to_host(buffer.data(), piece_of(piece.tensor, done, buffer.size()));
      file.write(begin + done, buffer.data(), buffer.size());
    }
  }
  file.finish();
}

WrittenFile write_safetensors(const std::string& path, std::span<const StateTensor> tensors,
                              const std::map<std::string, std::string>& metadata, Backend* backend) {
  const std::vector<const StateTensor*> order = file_order(tensors);
  const std::string header = header_text(metadata, order);
  OutputFile file(path);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
  if (backend != nullptr) backend->synchronize();
  for (const StateTensor* t : order) write_tensor(file, t->tensor, backend);
  file.finish();
  return {file.bytes(), file.checksum()};
}

}  // namespace spectrain
