#include "train/agreement.h"

#include <cstdint>
#include <vector>

#include "train/checksum.h"

namespace spectrain {

int first_with_another_text(Collectives& collectives, const std::string& text, const char* what) {
  if (collectives.ranks() == 1) return 0;
  const std::uint64_t own = checksum_of(text.data(), text.size());
  std::vector<std::uint64_t> all(static_cast<std::size_t>(collectives.ranks()));
  // float64 only in name: nothing is added.
  collectives.wait(collectives.all_gather(Tensor(const_cast<std::uint64_t*>(&own), DType::f64, {1}),
                                          Tensor(all.data(), DType::f64, {collectives.ranks()}), what));
  for (int r = 1; r < collectives.ranks(); ++r)
    if (all[static_cast<std::size_t>(r)] != all[0]) return r;
  return 0;
}

}  // namespace spectrain
