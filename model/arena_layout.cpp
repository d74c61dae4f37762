#include <algorithm>
#include <numeric>

#include "model/plan.h"

namespace spectrain {

// Largest first, each at the lowest offset where nothing alive at the same time lies.
std::size_t lay_out(std::span<Storage> storages) {
  std::vector<std::size_t> by_size(storages.size());
  std::iota(by_size.begin(), by_size.end(), 0);
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](std::size_t a, std::size_t b) { return storages[a].bytes > storages[b].bytes; });
  std::size_t bytes = 0;
  std::vector<const Storage*> placed;  // by offset
  for (const std::size_t i : by_size) {
    Storage& s = storages[i];
    if (s.first < 0) continue;
    std::size_t offset = 0;
    for (const Storage* other : placed) {
      if (other->last < s.first || other->first > s.last) continue;
      if (offset + s.bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    s.offset = offset;
    bytes = std::max(bytes, offset + s.bytes);
    const auto where =
        std::upper_bound(placed.begin(), placed.end(), &s,
                         [](const Storage* a, const Storage* b) { return a->offset < b->offset; });
    placed.insert(where, &s);
  }
  return bytes;
}

}  // namespace spectrain
