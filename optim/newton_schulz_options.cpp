#include "optim/newton_schulz_options.h"

namespace spectrain {
namespace {

constexpr Word<DType> kIterated[] = {{"f32", DType::f32}, {"bf16", DType::bf16}, {"f16", DType::f16}};
constexpr Word<NewtonSchulzForm> kForms[] = {{"standard", NewtonSchulzForm::standard},
                                             {"gram", NewtonSchulzForm::gram}};
constexpr Word<NewtonSchulzTable> kTables[] = {{"keller", NewtonSchulzTable::keller},
                                               {"polar_express", NewtonSchulzTable::polar_express},
                                               {"you", NewtonSchulzTable::you},
                                               {"exact", NewtonSchulzTable::exact},
                                               {"polar_express_1.05", NewtonSchulzTable::polar_express_105},
                                               {"polar_express_1.01", NewtonSchulzTable::polar_express_101},
                                               {"cans", NewtonSchulzTable::cans},
                                               {"cubic5", NewtonSchulzTable::cubic5},
                                               {"cubic", NewtonSchulzTable::cubic},
                                               {"pade", NewtonSchulzTable::pade},
                                               {"deepseek_v4", NewtonSchulzTable::deepseek_v4},
                                               {"aol", NewtonSchulzTable::aol}};

}  // namespace

void describe_newton_schulz(OptionVisitor& v, NewtonSchulzOptions& o) {
  v.section("newton_schulz", "the orthogonalisation", [&](OptionVisitor& inside) {
    inside.field("coefficients", choice(o.coefficients, kTables), {},
                 "table of the iteration (aol turns the sign of a dominant direction)");
    inside.field("steps", &o.steps, within(0, 100), "0: the table's own count");
    inside.field("precision", choice(o.precision, kIterated), {}, "of the iterations; f16 on CUDA alone");
    inside.field("form", choice(o.form, kForms), {},
                 "gram: iterates on X X^T where X is not square, with fewer operations");
  });
}

}  // namespace spectrain
