#include "optim/shard_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <tuple>

namespace spectrain {
namespace {

// Elements. Every block and every tensor in it begins on a cache line in any dtype, and a cut between ranks
// leaves whole vector registers on both sides, so that an element-wise rule makes the same bits however it is
// cut.
constexpr std::int64_t kAlign = 64;
// A bucket that is large enough is closed when its bins are this even; at twice the size in any case.
constexpr double kEvenEnough = 1.125;
// A matrix bucket should hold several matrices for each rank.
constexpr double kMatricesPerRank = 0.9;

std::int64_t aligned(std::int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

std::vector<std::size_t> ascending(std::size_t count) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

// A parameter's pieces before they are placed.
struct Item {
  std::size_t parameter = 0;
  DType weights = DType::f32;
  std::vector<ShardPiece> pieces;
  std::int64_t elements() const {
    std::int64_t sum = 0;
    for (const ShardPiece& p : pieces) sum += aligned(p.numel());
    return sum;
  }
};

// Bin of each piece: the largest first, each into the bin with the fewest elements (the lower one of equals).
struct Bins {
  std::vector<std::size_t> bin_of;     // by piece
  std::vector<std::int64_t> elements;  // by bin
  std::vector<double> flops;           // by bin
  std::int64_t largest() const { return *std::max_element(elements.begin(), elements.end()); }
};

Bins deal(const std::vector<ShardPiece>& pieces, int ranks) {
  Bins bins;
  bins.bin_of.resize(pieces.size());
  bins.elements.assign(static_cast<std::size_t>(ranks), 0);
  bins.flops.assign(static_cast<std::size_t>(ranks), 0);
  std::vector<std::size_t> order = ascending(pieces.size());
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return pieces[a].numel() > pieces[b].numel(); });
  for (const std::size_t i : order) {
    const auto least = std::min_element(bins.elements.begin(), bins.elements.end());
    const auto bin = static_cast<std::size_t>(least - bins.elements.begin());
    bins.bin_of[i] = bin;
    bins.elements[bin] += aligned(pieces[i].numel());
    bins.flops[bin] += pieces[i].flops;
  }
  return bins;
}

double padding_of(const Bins& bins) {
  const std::int64_t sum = std::accumulate(bins.elements.begin(), bins.elements.end(), std::int64_t{0});
  return static_cast<double>(bins.largest()) * static_cast<double>(bins.elements.size()) /
         static_cast<double>(sum);
}

class Planner {
 public:
  Planner(int ranks, const ShardOptions& options) : options_(options) {
    plan_.ranks = ranks;
    plan_.shares.resize(static_cast<std::size_t>(ranks));
  }

  void add_class(const std::vector<Item>& items, bool matrices) {
    std::int64_t largest = 0;
    for (const Item& item : items)
      for (const ShardPiece& p : item.pieces) largest = std::max(largest, p.numel());
    const auto size = static_cast<std::int64_t>(size_of(options_.master));
    std::int64_t enough = options_.bucket_bytes / size;
    if (matrices)
      enough =
          std::max(enough, static_cast<std::int64_t>(kMatricesPerRank * static_cast<double>(plan_.ranks) *
                                                     static_cast<double>(largest)));
    std::vector<std::vector<const Item*>> buckets(1);
    std::int64_t elements = 0;
    for (const Item& item : items) {
      if (elements >= enough && (!matrices || elements >= 2 * enough || even(buckets.back()))) {
        buckets.emplace_back();
        elements = 0;
      }
      buckets.back().push_back(&item);
      elements += item.elements();
    }
    // A short last bucket would cost its latency for little to send, an uneven one its padding.
    if (buckets.size() > 1 && (elements < enough / 2 || (matrices && !even(buckets.back())))) {
      auto& before = buckets[buckets.size() - 2];
      before.insert(before.end(), buckets.back().begin(), buckets.back().end());
      buckets.pop_back();
    }
    for (const auto& members : buckets)
      if (!members.empty()) plan_.buckets.push_back(matrices ? by_matrix(members) : by_element(members));
  }

  ShardPlan finish() {
    // Gradients of later parameters are complete first.
    std::stable_sort(plan_.buckets.begin(), plan_.buckets.end(), [](const Bucket& a, const Bucket& b) {
      return *std::min_element(a.parameters.begin(), a.parameters.end()) >
             *std::min_element(b.parameters.begin(), b.parameters.end());
    });
    for (std::size_t i = 0; i < plan_.buckets.size(); ++i)
      plan_.buckets[i].name = fmt::format("bucket {}", i);
    return std::move(plan_);
  }

 private:
  static std::vector<ShardPiece> pieces_of(const std::vector<const Item*>& items) {
    std::vector<ShardPiece> pieces;
    for (const Item* item : items) pieces.insert(pieces.end(), item->pieces.begin(), item->pieces.end());
    return pieces;
  }

  bool even(const std::vector<const Item*>& items) const {
    return padding_of(deal(pieces_of(items), plan_.ranks)) <= kEvenEnough;
  }

  static Bucket begin(const std::vector<const Item*>& items, bool matrices) {
    Bucket bucket;
    bucket.matrices = matrices;
    bucket.weights = items.front()->weights;
    for (const Item* item : items) bucket.parameters.push_back(item->parameter);
    return bucket;
  }

  Bucket by_matrix(const std::vector<const Item*>& items) {
    Bucket bucket = begin(items, true);
    std::vector<ShardPiece> pieces = pieces_of(items);
    const Bins bins = deal(pieces, plan_.ranks);
    const std::vector<int> rank_of = ranks_for(bins);
    bucket.grouped = padding_of(bins) > options_.most_padding;
    const auto ranks = static_cast<std::size_t>(plan_.ranks);
    std::vector<std::int64_t> length(ranks);
    for (std::size_t bin = 0; bin < ranks; ++bin)
      length[static_cast<std::size_t>(rank_of[bin])] = bucket.grouped ? bins.elements[bin] : bins.largest();
    bucket.starts.assign(1, 0);
    for (const std::int64_t n : length) bucket.starts.push_back(bucket.starts.back() + n);
    std::vector<std::int64_t> next(bucket.starts.begin(), bucket.starts.end() - 1);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      ShardPiece& p = pieces[i];
      p.rank = rank_of[bins.bin_of[i]];
      const auto r = static_cast<std::size_t>(p.rank);
      p.offset = next[r];
      next[r] += aligned(p.numel());
      ++plan_.shares[r].matrices;
      plan_.shares[r].matrix_numbers += p.numel();
      plan_.shares[r].flops += p.flops;
    }
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const ShardPiece& a, const ShardPiece& b) { return a.offset < b.offset; });
    bucket.pieces = std::move(pieces);
    return bucket;
  }

  // The bin that costs most to the rank with the least to do so far (the lower one of equals), and so on.
  std::vector<int> ranks_for(const Bins& bins) const {
    std::vector<std::size_t> by_cost = ascending(bins.flops.size()), by_load = by_cost;
    std::stable_sort(by_cost.begin(), by_cost.end(),
                     [&](std::size_t a, std::size_t b) { return bins.flops[a] > bins.flops[b]; });
    std::stable_sort(by_load.begin(), by_load.end(), [&](std::size_t a, std::size_t b) {
      return plan_.shares[a].flops < plan_.shares[b].flops;
    });
    std::vector<int> rank_of(by_cost.size());
    for (std::size_t i = 0; i < by_cost.size(); ++i) rank_of[by_cost[i]] = static_cast<int>(by_load[i]);
    return rank_of;
  }

  Bucket by_element(const std::vector<const Item*>& items) {
    Bucket bucket = begin(items, false);
    const std::vector<ShardPiece> wholes = pieces_of(items);
    std::int64_t sum = 0;
    for (const ShardPiece& p : wholes) sum += aligned(p.numel());
    const std::int64_t ranks = plan_.ranks, block = aligned((sum + ranks - 1) / ranks);
    for (std::int64_t r = 0; r <= ranks; ++r) bucket.starts.push_back(r * block);
    std::int64_t offset = 0;
    for (const ShardPiece& whole : wholes) {
      for (std::int64_t done = 0; done < whole.numel();) {
        const std::int64_t rank = (offset + done) / block;
        const std::int64_t count = std::min(whole.numel() - done, (rank + 1) * block - (offset + done));
        bucket.pieces.push_back(cut(whole, done, count, static_cast<int>(rank), offset + done));
        done += count;
      }
      offset += aligned(whole.numel());
    }
    return bucket;
  }

  ShardPiece cut(const ShardPiece& whole, std::int64_t first, std::int64_t count, int rank,
                 std::int64_t offset) {
    ShardPiece p = whole;
    p.rank = rank;
    p.offset = offset;
    p.element += first;
    p.piece.first = first;
    if (count != whole.numel()) p.piece.shape = Shape{count};
    plan_.shares[static_cast<std::size_t>(rank)].flat_numbers += count;
    return p;
  }

  ShardOptions options_;
  ShardPlan plan_;
};

std::string millions(std::int64_t n) { return fmt::format("{:.2f} M", static_cast<double>(n) / 1e6); }
std::string megabytes(std::uint64_t n) { return fmt::format("{:.2f} MB", static_cast<double>(n) / 1e6); }

}  // namespace

std::int64_t Bucket::numbers() const {
  std::int64_t sum = 0;
  for (const ShardPiece& p : pieces) sum += p.numel();
  return sum;
}

double ShardPlan::imbalance() const {
  double most = 0, sum = 0;
  for (const RankShare& s : shares) {
    most = std::max(most, s.flops);
    sum += s.flops;
  }
  return sum > 0 ? most * static_cast<double>(shares.size()) / sum : 1;
}

double ShardPlan::padding() const {
  std::int64_t elements = 0, numbers = 0;
  for (const Bucket& b : buckets)
    if (b.matrices) {
      elements += b.elements();
      numbers += b.numbers();
    }
  return numbers > 0 ? static_cast<double>(elements) / static_cast<double>(numbers) : 1;
}

std::uint64_t ShardPlan::gradient_bytes(int rank, DType master) const {
  std::uint64_t sum = 0;
  for (const Bucket& b : buckets) sum += static_cast<std::uint64_t>(b.elements() - b.block(rank));
  return sum * size_of(master);
}

std::uint64_t ShardPlan::weight_bytes(int rank) const {
  std::uint64_t sum = 0;
  for (const Bucket& b : buckets)
    sum += static_cast<std::uint64_t>(b.block(rank)) * static_cast<std::uint64_t>(ranks - 1) *
           size_of(b.weights);
  return sum;
}

std::vector<ShardPiece> ShardPlan::pieces_of(int rank) const {
  std::vector<ShardPiece> own;
  for (const Bucket& b : buckets)
    for (const ShardPiece& p : b.pieces)
      if (p.rank == rank) own.push_back(p);
  std::sort(own.begin(), own.end(), [](const ShardPiece& a, const ShardPiece& b) {
    const Piece &x = a.piece, &y = b.piece;
    return std::tie(x.group, x.member, x.part, x.first) < std::tie(y.group, y.member, y.part, y.first);
  });
  return own;
}

ShardPlan plan_shards(std::span<const ParameterInfo* const> parameters, const OptimizerPlan& groups,
                      std::span<const DType> weights, int ranks, const ShardOptions& options) {
  if (ranks < 1) throw std::logic_error("plan_shards: fewer than one rank");
  std::vector<Item> items(parameters.size());
  std::vector<std::uint8_t> matrices(parameters.size());
  for (const Piece& piece : whole_parts(groups)) {
    const GroupPlan& group = groups.groups[piece.group];
    const MemberPlan& member = group.members[piece.member];
    ShardPiece p{piece, member.parameter, 0, 0, 0, group.rule->flops(piece.shape)};
    p.element = member.parts[piece.part].first_row * parameters[member.parameter]->shape.cols();
    Item& item = items[member.parameter];
    item.parameter = member.parameter;
    item.weights = weights[member.parameter];
    item.pieces.push_back(std::move(p));
    matrices[member.parameter] = group.rule->wants_matrices();
  }
  Planner planner(ranks, options);
  for (const bool by_matrix : {true, false})
    for (const DType dtype : {DType::bf16, DType::f32, DType::f64}) {
      std::vector<Item> members;
      for (std::size_t i = items.size(); i-- > 0;)
        if (!items[i].pieces.empty() && bool(matrices[i]) == by_matrix && items[i].weights == dtype)
          members.push_back(items[i]);
      if (!members.empty()) planner.add_class(members, by_matrix);
    }
  return planner.finish();
}

std::string describe(const ShardPlan& plan, DType master) {
  std::string text;
  for (int r = 0; r < plan.ranks; ++r) {
    const RankShare& s = plan.shares[static_cast<std::size_t>(r)];
    text += fmt::format("rank {:>4}: {:>4} matrices of {:>10}, {:>10} other numbers, {:>9.3f} GFLOP/step\n",
                        r, s.matrices, millions(s.matrix_numbers), millions(s.flat_numbers), s.flops / 1e9);
  }
  std::uint64_t gradients = 0, weights = 0;
  std::int64_t grouped = 0;
  for (int r = 0; r < plan.ranks; ++r) {
    gradients = std::max(gradients, plan.gradient_bytes(r, master));
    weights = std::max(weights, plan.weight_bytes(r));
  }
  for (const Bucket& b : plan.buckets) grouped += b.grouped;
  text +=
      fmt::format("{} buckets{}; work max/mean {:.3f}, padding of the matrices {:.3f}\n", plan.buckets.size(),
                  grouped ? fmt::format(" ({} with blocks of unequal length)", grouped) : "",
                  plan.imbalance(), plan.padding());
  text += fmt::format("a rank sends {} of gradients and {} of weights per step\n", megabytes(gradients),
                      megabytes(weights));
  return text;
}

}  // namespace spectrain
