#include "train/lab/lab_results.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/error.h"
#include "train/durable_file.h"
#include "train/lab/configured_experiment.h"
#include "train/lab/lab_page.h"
#include "train/lab/lab_table.h"

namespace spectrain::lab {
namespace {

namespace fs = std::filesystem;

std::string folder_of(const std::string& directory) { return directory + "/experiments"; }
std::string path_of(const std::string& directory, const std::string& id) {
  return fmt::format("{}/{}.json", folder_of(directory), id);
}

void make_folder(const std::string& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) throw RequestError(fmt::format("cannot make the directory {}: {}", path, failed.message()));
}

void write_tables(const std::vector<ExperimentRecord>& records, const std::string& directory) {
  std::string lines;
  for (const ExperimentRecord& r : records) lines += claim_lines(r);
  replace_file(directory + "/lab.jsonl", lines);
  replace_file(directory + "/lab.md", markdown_table(records));
}

}  // namespace

std::vector<ExperimentRecord> read_records(const std::string& directory) {
  std::vector<ExperimentRecord> records;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(directory), none))
    if (const std::string path = entry.path().string(); path.ends_with(".json"))
      records.push_back(record_of(read_text_file(path), path));
  std::sort(records.begin(), records.end(),
            [](const auto& a, const auto& b) { return id_before(a.id, b.id); });
  return records;
}

bool keep_record(const ExperimentRecord& record, const std::string& directory) {
  make_folder(folder_of(directory));
  const std::string path = path_of(directory, record.id);
  if (!record.not_run.empty() && fs::exists(path) && record_of(read_text_file(path), path).not_run.empty())
    return false;
  replace_file(path, to_text(record));
  write_tables(read_records(directory), directory);
  return true;
}

void write_results(const std::vector<ExperimentRecord>& records, const std::string& directory,
                   const std::string& version) {
  if (records.empty())
    throw RequestError(fmt::format(
        "{} holds no finished experiment yet; run one, as in \"spectrain lab run e1\"", directory));
  write_tables(records, directory);
  // The page last: it is what people open, and then the rest is there.
  replace_file(directory + "/lab.html", lab_page(records, version));
}

}  // namespace spectrain::lab
