#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "optim/rule.h"

// Who is updated by what, and where its state lies: decided from roles and shapes, before any memory exists.

namespace spectrain {

struct PartPlan {
  std::int64_t first_row = 0;
  Shape shape;  // logical: without padding rows
};

// A tensor of state: the slots of a parameter's parts one after the other. Its shape is the parameter's when
// the parts tile it, the slot's when there is one part, and flat otherwise.
struct StatePlan {
  std::string name;  // "h.0.attention.qkv.momentum"
  Shape shape;
  DType dtype = DType::f32;
  std::vector<std::int64_t> first;  // by part: where its slot begins, in elements
};

struct MemberPlan {
  std::size_t parameter = 0;  // index among the parameters
  std::vector<PartPlan> parts;
  std::vector<StatePlan> state;
};

struct GroupPlan {
  std::vector<Role> roles;
  bool elementwise = false;  // the second of a group's rules, for what the first cannot update
  std::unique_ptr<UpdateRule> rule;
  std::vector<MemberPlan> members;
  std::int64_t parameters = 0;  // logical numbers
  std::size_t state_bytes = 0;  // with alignment

  std::vector<Shape> part_shapes() const;
};

struct OptimizerPlan {
  std::vector<GroupPlan> groups;
  std::size_t state_bytes = 0;
};

// Throws the RequestErrors of Optimizer's constructor.
OptimizerPlan plan_groups(std::span<const ParameterInfo* const> parameters, const OptimizerConfig& config,
                          DType master);

// What the rules allocate for whole parts, beside their state.
std::size_t workspace_bytes(const OptimizerPlan& plan, const BackendSizes& backend);

// What is updated at a time: a whole part, or, where the rule is element-wise, a range of a part's elements.
struct Piece {
  std::size_t group = 0, member = 0, part = 0;
  std::int64_t first = 0;  // element of the part
  Shape shape;             // the part's, or [count]
};
std::vector<Piece> whole_parts(const OptimizerPlan& plan);

// Where the state of some pieces lies in one buffer. `pieces` ascend by group, member, part and first.
struct StateRun {  // neighbouring elements of one tensor of state
  std::string name;
  std::size_t parameter = 0;
  Shape whole;  // of the tensor
  DType dtype = DType::f32;
  std::int64_t first = 0;  // element of the tensor
  std::int64_t count = 0;
  std::size_t offset = 0;  // bytes
};
struct StateLayout {
  std::vector<std::vector<std::size_t>> offsets;  // by piece and slot, bytes
  std::vector<std::vector<Shape>> shapes;         // by piece and slot
  std::vector<std::vector<DType>> dtypes;         // by piece and slot
  std::vector<StateRun> runs;                     // in the order of the parameters
  std::size_t bytes = 0;
};
StateLayout layout_state(const OptimizerPlan& plan, std::span<const Piece> pieces);

// The table of Optimizer::describe().
std::string describe(const OptimizerPlan& plan, double clip, const BackendSizes& backend);

}  // namespace spectrain
