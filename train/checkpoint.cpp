#include "train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "kernels/collectives.h"
#include "kernels/error.h"
#include "train/checkpoint_files.h"
#include "train/durable_file.h"
#include "train/safetensors.h"

namespace spectrain {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char *kModel = "model.safetensors", *kOptimizer = "optimizer.safetensors",
                     *kState = "state.json", *kManifest = "manifest.json";

WrittenFile write_text(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.write(text);
  file.finish();
  return {file.bytes(), file.checksum()};
}

json entry(const WrittenFile& file) {
  return {{"bytes", file.bytes}, {"checksum", checksum_text(file.checksum)}};
}

std::map<std::string, std::string> metadata_of(std::int64_t step) {
  return {{"format", "spectrain"}, {"step", std::to_string(step)}};
}

// state.json and the manifest, beside the two files of tensors described in `files`.
void write_texts(const std::string& path, std::int64_t step, const CheckpointContents& contents, json files) {
  files[kState] = entry(write_text(path + "/" + kState, contents.state.dump(2) + "\n"));
  const json manifest = {{"format", 1}, {"step", step}, {"checksum", "xxh64"}, {"files", files}};
  write_text(path + "/" + kManifest, manifest.dump(2) + "\n");
  sync_directory(path);
}

void write_files(const std::string& path, std::int64_t step, const CheckpointContents& contents,
                 Backend& backend) {
  json files;
  files[kModel] = entry(write_safetensors(path + "/" + kModel, contents.model, metadata_of(step), &backend));
  files[kOptimizer] =
      entry(write_safetensors(path + "/" + kOptimizer, contents.optimizer, metadata_of(step), &backend));
  write_texts(path, step, contents, std::move(files));
}

// The manifest, its form checked. Throws RequestError.
json read_manifest(const std::string& path) {
  try {
    json manifest = json::parse(read_text_file(path + "/" + kManifest));
    if (manifest.at("format").get<int>() != 1)
      throw RequestError(fmt::format("{} is of a newer format ({}) than this program knows (1)", path,
                                     manifest["format"].dump()));
    manifest.at("step").get<std::int64_t>();
    for (const char* name : {kModel, kOptimizer, kState}) {
      manifest.at("files").at(name).at("bytes").get<std::uint64_t>();
      manifest.at("files").at(name).at("checksum").get<std::string>();
    }
    return manifest;
  } catch (const json::exception& e) {
    throw RequestError(fmt::format("{}/{} is damaged ({})", path, kManifest, e.what()));
  } catch (const RequestError&) {
    throw;
  } catch (const Error& e) {
    throw RequestError(fmt::format("{} is not a complete checkpoint: {}", path, e.what()));
  }
}

void check_sizes(const std::string& path, const json& files) {
  for (const auto& [name, facts] : files.items()) {
    std::error_code none;
    const auto bytes = fs::file_size(path + "/" + name, none);
    if (none) throw RequestError(fmt::format("{} is not complete: {} is missing", path, name));
    if (bytes != facts.at("bytes").get<std::uint64_t>())
      throw RequestError(fmt::format("{}/{} is damaged: it has {} bytes, the manifest says {}", path, name,
                                     bytes, facts.at("bytes").dump()));
  }
}

WrittenFile read_through(const std::string& path) {
  const InputFile file(path);
  Checksum sum;
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (std::uint64_t done = 0; done < file.bytes();) {
    const std::size_t count = std::min<std::uint64_t>(buffer.size(), file.bytes() - done);
    file.read(done, buffer.data(), count);
    sum.update(buffer.data(), count);
    done += count;
  }
  return {file.bytes(), sum.digest()};
}

void check_contents(const std::string& path, const std::string& name, const json& facts) {
  const std::string found = checksum_text(read_through(path + "/" + name).checksum),
                    expected = facts.at("checksum").get<std::string>();
  if (found != expected)
    throw RequestError(fmt::format("{}/{} is damaged: its checksum is {}, the manifest says {}", path, name,
                                   found, expected));
}

void verify_checkpoint(const std::string& path, Verify verify) {
  const json manifest = read_manifest(path);
  check_sizes(path, manifest["files"]);
  if (verify == Verify::contents)
    for (const auto& [name, facts] : manifest["files"].items()) check_contents(path, name, facts);
}

// Keeps `step` and the keep - 1 complete ones before it; sets later ones aside.
void prune(const std::string& directory, std::int64_t step, int keep) {
  std::vector<StepDirectory> older;
  for (const StepDirectory& d : step_directories(directory)) {
    if (d.step > step) set_aside(d.path);
    if (d.step >= step) continue;
    try {
      verify_checkpoint(d.path, Verify::sizes);
      older.push_back(d);
    } catch (const Error&) {
      // A damaged one neither counts nor is removed: someone may want to see what happened to it.
    }
  }
  if (keep <= 0) return;
  const std::size_t others = static_cast<std::size_t>(keep - 1);
  for (std::size_t i = 0; i + others < older.size(); ++i) remove_step_directory(older[i].path);
}

}  // namespace

std::string write_checkpoint(const std::string& directory, std::int64_t step,
                             const CheckpointContents& contents, Backend& backend, int keep) {
  if (step < 0) throw std::logic_error("write_checkpoint: negative step");
  make_directory(directory);
  remove_leftovers(directory);
  const std::string writing = directory + "/" + std::string(kWriting) + step_name(step);
  const std::string final_path = directory + "/" + step_name(step);
  try {
    make_directory(writing);
    write_files(writing, step, contents, backend);
    publish(writing, final_path);
  } catch (const Error& e) {
    std::error_code ignored;
    fs::remove_all(writing, ignored);  // gives a full disk its room back
    throw Error(fmt::format("the checkpoint of step {} was not written; earlier ones are as they were: {}",
                            step, e.what()));
  }
  prune(directory, step, keep);
  return final_path;
}

std::string write_checkpoint(const std::string& directory, std::int64_t step,
                             const CheckpointContents& contents, Backend& backend, int keep,
                             const CheckpointRanks& ranks) {
  const std::string writing = directory + "/" + std::string(kWriting) + step_name(step);
  const std::string final_path = directory + "/" + step_name(step);
  const std::string model = writing + "/" + kModel, optimizer = writing + "/" + kOptimizer;
  const bool first = ranks.rank == 0;
  try {
    if (first) {
      make_directory(directory);
      remove_leftovers(directory);
      make_directory(writing);
      lay_out_safetensors(model, ranks.model, metadata_of(step));
      lay_out_safetensors(optimizer, ranks.optimizer, metadata_of(step));
    }
    ranks.barrier("the layout of a checkpoint");
    write_pieces(model, contents.model, backend);
    write_pieces(optimizer, contents.optimizer, backend);
    ranks.barrier("the tensors of a checkpoint");
    if (first) {
      write_texts(writing, step, contents,
                  {{kModel, entry(read_through(model))}, {kOptimizer, entry(read_through(optimizer))}});
      publish(writing, final_path);
    }
  } catch (const PeerFailure&) {
    std::error_code ignored;
    if (first) fs::remove_all(writing, ignored);
    throw;
  } catch (const Error& e) {
    std::error_code ignored;
    if (first) fs::remove_all(writing, ignored);
    throw Error(fmt::format("the checkpoint of step {} was not written; earlier ones are as they were: {}",
                            step, e.what()));
  }
  if (first) prune(directory, step, keep);
  ranks.barrier("the end of a checkpoint");
  return final_path;
}

std::optional<FoundCheckpoint> newest_checkpoint(const std::string& directory, Verify verify,
                                                 std::vector<std::string>* notes) {
  std::vector<StepDirectory> all = step_directories(directory);
  std::vector<std::string> passed_over;
  std::optional<FoundCheckpoint> found;
  for (auto it = all.rbegin(); it != all.rend() && !found; ++it) {
    try {
      verify_checkpoint(it->path, verify);
      found = FoundCheckpoint{it->path, it->step, passed_over};
    } catch (const Error& e) {
      passed_over.push_back(e.what());
    }
  }
  if (notes != nullptr) *notes = passed_over;
  return found;
}

std::vector<FoundCheckpoint> list_checkpoints(const std::string& directory) {
  std::vector<FoundCheckpoint> complete;
  for (const StepDirectory& d : step_directories(directory)) {
    try {
      verify_checkpoint(d.path, Verify::sizes);
      complete.push_back({d.path, d.step, {}});
    } catch (const Error&) {
      // not complete: not listed
    }
  }
  return complete;
}

CheckpointReader::CheckpointReader(std::string path) : path_(std::move(path)) {
  const json manifest = read_manifest(path_);
  step_ = manifest["step"].get<std::int64_t>();
  files_ = manifest["files"];
  check_sizes(path_, files_);
  check_contents(path_, kState, files_.at(kState));
  try {
    state_ = json::parse(read_text_file(path_ + "/" + kState));
  } catch (const json::exception& e) {
    throw RequestError(fmt::format("{}/{} is not valid JSON ({})", path_, kState, e.what()));
  }
}

void CheckpointReader::load_model(Backend& backend, std::span<const StateTensor> into) const {
  const SafetensorsFile file = checked(kModel, into);
  for (const StateTensor& t : into) file.read(backend, t);
}

void CheckpointReader::load_optimizer(Backend& backend, std::span<const StateTensor> into) const {
  load_optimizer(backend, into, into);
}

void CheckpointReader::load_optimizer(Backend& backend, std::span<const StateTensor> into,
                                      std::span<const StateTensor> layout) const {
  const SafetensorsFile file = checked(kOptimizer, layout);
  for (const StateTensor& t : into) file.read(backend, t);
}

void CheckpointReader::read_model(std::span<const StateTensor> layout,
                                  const std::function<void(const SafetensorsFile&)>& use) const {
  use(checked(kModel, layout));
}

SafetensorsFile CheckpointReader::checked(const char* name, std::span<const StateTensor> layout) const {
  check_contents(path_, name, files_.at(name));
  SafetensorsFile file(path_ + "/" + name);
  std::set<std::string_view> wanted;
  for (const StateTensor& t : layout) {
    const StoredTensor* stored = file.find(t.name);
    if (stored == nullptr)
      throw RequestError(
          fmt::format("{} has no tensor '{}' that this run needs; it was written by a different "
                      "model or optimizer",
                      file.path(), t.name));
    file.expect(*stored, t.tensor);
    wanted.insert(t.name);
  }
  for (const StoredTensor& t : file.tensors())
    if (!wanted.contains(t.name))
      throw RequestError(
          fmt::format("{} has the tensor '{}' that this run does not know; it was written by a "
                      "different model or optimizer",
                      file.path(), t.name));
  return file;
}

}  // namespace spectrain
