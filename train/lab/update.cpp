#include "train/lab/update.h"

namespace spectrain::lab {
namespace {

constexpr Word<Update> kUpdates[] = {
    {"polar", Update::polar}, {"newton_schulz", Update::newton_schulz}, {"gradient", Update::gradient}};

}  // namespace

void describe_update(OptionVisitor& v, Update& update) {
  v.field("update", choice(update, kUpdates), {}, "what is taken for U V^T");
}

Matrix updated(Update update, const Matrix& g) {
  switch (update) {
    case Update::polar:
      return polar(g).factor;
    case Update::newton_schulz:
      return newton_schulz(g, keller_newton_schulz(5));
    case Update::gradient:
      break;
  }
  return g;
}

}  // namespace spectrain::lab
