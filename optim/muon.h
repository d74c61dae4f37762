#pragma once

#include "optim/momentum_options.h"
#include "optim/newton_schulz_options.h"
#include "optim/rule_options.h"
#include "optim/shape_scale.h"

namespace spectrain {

// Muon (K. Jordan et al. 2024, kellerjordan.github.io/posts/muon; at scale: Liu et al. 2025, 2502.16982).
// For an [out, in] matrix W with gradient G:
//
//   u = momentum(G)                      momentum.h: average or sum, Nesterov or not, mu over the run
//   O = NewtonSchulz(u)                  newton_schulz.h: about U V^T of u = U S V^T
//   W = (1 - lr decay) W - lr s O        s from the logical shape: original, match_rms or unit_rms
//
// Defaults: lr 0.02, mu 0.95, Nesterov, decay 0, original, polar-express x 5 in f32. The splits of a fused
// weight (q, k, v) are orthogonalised apart. decay counts per scheduled lr, so it does not carry over between
// shape scales: match_rms goes with AdamW's lr and decay, original with an lr about 5 times as large at width
// 768. State: 1 number per parameter (momentum). Cost per matrix: Newton-Schulz's, newton_schulz.h; the rest
// is 8 FLOPs per parameter, bound by memory.
struct MuonOptions : MomentumOptions {
  double lr = 0.02, weight_decay = 0;
  ShapeScale shape_scale = ShapeScale::original;
  NewtonSchulzOptions newton_schulz;
  bool operator==(const MuonOptions&) const = default;
};
const RuleInfo& info_of(const MuonOptions&);
void describe_options(OptionVisitor& v, MuonOptions& o);
std::unique_ptr<UpdateRule> make_rule(const MuonOptions& options, const FinishOptions& finish);

}  // namespace spectrain
