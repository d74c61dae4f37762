#include "train/lab/language.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "data/bpe_train.h"
#include "data/images.h"
#include "data/tokenizer.h"
#include "data/word_splitter.h"
#include "kernels/error.h"
#include "train/lab/classifier.h"

namespace spectrain::lab {
namespace {

constexpr std::int64_t kHeldOutShare = 16;

std::vector<std::string_view> documents_of(std::string_view text) {
  std::vector<std::string_view> documents;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(kEndOfText), text.size());
    std::string_view document = text.substr(0, end);
    if (document.starts_with('\n')) document.remove_prefix(1);
    if (document.ends_with('\n')) document.remove_suffix(1);
    if (!document.empty()) documents.push_back(document);
    text.remove_prefix(std::min(end + kEndOfText.size(), text.size()));
  }
  return documents;
}

std::unique_ptr<Tokenizer> tokenizer_of(const std::vector<std::string_view>& documents, std::int64_t vocab,
                                        const std::string& path) {
  std::map<std::string, std::int64_t, std::less<>> counts;
  WordSplitter splitter;
  for (const std::string_view document : documents) {
    splitter.start(document);
    for (std::string_view word; splitter.next(word);) {
      const auto at = counts.find(word);
      if (at == counts.end())
        counts.emplace(word, 1);
      else
        ++at->second;
    }
  }
  std::vector<TokenPair> merges = learn_merges({counts.begin(), counts.end()}, vocab - 257);
  if (static_cast<std::int64_t>(merges.size()) < vocab - 257)
    throw RequestError(fmt::format("{}: too little text for a vocabulary of {}", path, vocab));
  return make_bpe_tokenizer(std::move(merges));
}

}  // namespace

LanguageText read_language_text(const std::string& data, const std::string& file, std::int64_t bytes,
                                std::int64_t vocab) {
  const std::string path =
      file.empty() ? find_data_file(data + "/text/wikipedia_en", {"train_00.txt"}, "English text") : file;
  const std::vector<std::uint8_t> all = read_unpacked(path);
  const std::string text(all.begin(), all.begin() + std::min(static_cast<std::ptrdiff_t>(all.size()), bytes));
  const std::vector<std::string_view> documents = documents_of(text);
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(documents, vocab, path);
  LanguageText out;
  out.vocab = tokenizer->vocab();
  for (const std::string_view document : documents) {
    out.train.push_back(tokenizer->end_of_text());
    tokenizer->encode(document, out.train);
  }
  const auto kept =
      static_cast<std::ptrdiff_t>(out.train.size() - out.train.size() / std::size_t{kHeldOutShare});
  out.held_out.assign(out.train.begin() + kept, out.train.end());
  out.train.resize(static_cast<std::size_t>(kept));
  return out;
}

void LanguageTask::describe(OptionVisitor& v) {
  v.field("text", &text, {}, "a file; empty: English Wikipedia in the folder of data");
  v.field("text_bytes", &text_bytes, count_from(1000), "of it are read; a sixteenth is held out");
  v.field("vocab", &vocab, within(258, 65536), "of the tokenizer that is learned on them");
  v.field("layers", &layers, within(1, 100), "of the transformer");
  v.field("width", &width, within(16, 8192), "of the transformer, heads have 64 elements or all");
  v.field("context", &context, within(8, 65536), "tokens of a sequence");
}

TransformerConfig LanguageTask::transformer() const {
  TransformerConfig m;
  m.layers = layers;
  m.width = width;
  m.heads = std::max<std::int64_t>(1, width / 64);
  m.positions = Positions::rotary;
  m.norm = NormKind::rms;
  m.norm_bias = m.linear_bias = m.tied = false;
  return m;
}

namespace {

std::int64_t windows(const std::vector<std::int32_t>& tokens, std::int64_t context) {
  return (static_cast<std::int64_t>(tokens.size()) - 1) / context;
}

RunConfig configuration(const LanguageText& text, LanguageOptions& options) {
  RunConfig c;
  c.model = options.model;
  c.model.vocab = text.vocab;
  c.model.context = options.context;
  c.model = c.model.resolved();
  c.batch.context = options.context;
  c.batch.tokens = options.sequences * options.context;
  c.compute.precision = DType::bf16;
  c.batch.micro_batch = c.micro_batch();
  options.model = c.model;
  return c;
}

// A matrix of several parts as one parameter of each.
void add_parts(const ParameterView& whole, const RoleOf& role_of,
               std::vector<std::unique_ptr<ParameterInfo>>& infos, std::vector<ParameterView>& views) {
  const bool parts = !whole.info->splits.empty();
  std::int64_t first = 0;
  for (std::size_t i = 0; i < std::max<std::size_t>(1, whole.info->splits.size()); ++i) {
    ParameterInfo info = *whole.info;
    if (parts) {
      info.name += fmt::format(".{}", i);
      info.shape = {whole.info->splits[i], info.shape[1]};
      info.logical_rows = whole.info->splits[i];
      info.splits.clear();
    }
    if (role_of) info.role = role_of(info.name, info.role);
    infos.push_back(std::make_unique<ParameterInfo>(std::move(info)));
    const Shape& shape = infos.back()->shape;
    if (parts)
      views.push_back({infos.back().get(), whole.value.slice_rows(first, shape[0]),
                       whole.gradient.slice_rows(first, shape[0])});
    else
      views.push_back({infos.back().get(), whole.value, whole.gradient});
    if (parts) first += shape[0];
  }
}

}  // namespace

LanguageModel::LanguageModel(Backend& backend, const LanguageText& text, LanguageOptions options)
    : backend_(backend), text_(text), options_(std::move(options)) {
  const RunConfig config = configuration(text, options_);
  if (windows(text.train, options_.context) < options_.sequences ||
      windows(text.held_out, options_.context) < 1)
    throw RequestError(fmt::format("the text has {} tokens, too few for a batch of {} sequences of {}",
                                   text.train.size(), options_.sequences, options_.context));
  session_ = std::make_unique<Session>(config, backend, true);
  session_->parameters().initialize(options_.seed);
  OptimizerConfig rules;
  rules.groups = options_.groups;
  std::vector<ParameterView> views;
  for (const ParameterView& view : session_->parameters().views())
    add_parts(view, options_.role_of, parts_, views);
  optimizer_ = std::make_unique<Optimizer>(backend, std::move(views), rules);
  tokens_.resize(static_cast<std::size_t>(session_->micro_batch() * options_.context));
  targets_.resize(tokens_.size());
}

LanguageModel::~LanguageModel() = default;

ModelCount LanguageModel::size() const { return count(options_.model, options_.context); }

void LanguageModel::read(std::span<const std::int32_t> from, std::int64_t window, std::size_t row) {
  const auto length = static_cast<std::size_t>(options_.context);
  const auto first = from.begin() + window * options_.context;
  const auto at = static_cast<std::ptrdiff_t>(row * length);
  std::copy_n(first, length, tokens_.begin() + at);
  std::copy_n(first + 1, length, targets_.begin() + at);
}

std::int64_t LanguageModel::next_window() {
  const std::int64_t all = windows(text_.train, options_.context), at = sequences_read_ % all;
  if (at == 0)
    order_ = shuffled(all, {options_.seed, stream_of("language windows") +
                                               static_cast<std::uint64_t>(sequences_read_ / all)});
  ++sequences_read_;
  return order_[static_cast<std::size_t>(at)];
}

double LanguageModel::step(double lr_factor) {
  const auto rows = static_cast<std::size_t>(session_->micro_batch());
  const auto tokens = static_cast<double>(options_.sequences * options_.context);
  double sum = 0;
  for (std::int64_t done = 0; done < options_.sequences; done += session_->micro_batch()) {
    for (std::size_t row = 0; row < rows; ++row) read(text_.train, next_window(), row);
    session_->set_training_batch(tokens_, targets_);
    session_->training().forward_backward(1 / tokens, done > 0);
    for (const double loss : session_->training().host_result()) sum += loss;
  }
  const StepReport report = optimizer_->step(steps_++, lr_factor);
  if (!report.finite) return std::numeric_limits<double>::quiet_NaN();
  session_->parameters().refresh();
  return sum / tokens;
}

double LanguageModel::held_out(std::int64_t tokens, const EachLoss& each) {
  const std::int64_t count =
      std::clamp<std::int64_t>(tokens / options_.context, 1, windows(text_.held_out, options_.context));
  const auto rows = session_->micro_batch();
  double sum = 0;
  for (std::int64_t first = 0; first < count; first += rows) {
    std::fill(tokens_.begin(), tokens_.end(), 0);
    std::fill(targets_.begin(), targets_.end(), -1);
    for (std::int64_t row = 0; row < std::min(rows, count - first); ++row)
      read(text_.held_out, first + row, static_cast<std::size_t>(row));
    session_->set_evaluation_batch(tokens_, targets_);
    session_->evaluation().forward();
    const std::vector<double> losses = session_->evaluation().host_result();
    for (const double loss : losses) sum += loss;
    if (each) each(targets_, losses);
  }
  return sum / static_cast<double>(count * options_.context);
}

}  // namespace spectrain::lab
