#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/rule.h"

// Who is updated by what, and where its state lies: decided from roles and shapes, before any memory exists.

namespace spectrain {

// A tensor of state: the slots of a parameter's parts one after the other. Its shape is the parameter's when
// the parts tile it, the slot's when there is one part, and flat otherwise.
struct StatePlan {
  std::string name;  // "h.0.attention.qkv.momentum"
  Shape shape;
  std::size_t offset = 0;  // bytes, in the one buffer of all state
};

struct PartPlan {
  std::int64_t first_row = 0;
  Shape shape;                             // logical: without padding rows
  std::vector<std::size_t> state_offsets;  // bytes, one per slot of the rule
  std::vector<Shape> state_shapes;
};

struct MemberPlan {
  std::size_t parameter = 0;  // index among the parameters
  std::vector<PartPlan> parts;
  std::vector<StatePlan> state;
};

struct GroupPlan {
  std::vector<Role> roles;
  std::unique_ptr<UpdateRule> rule;
  std::vector<MemberPlan> members;
  std::int64_t parameters = 0;  // logical numbers
  std::size_t state_bytes = 0;  // with alignment

  std::vector<Shape> part_shapes() const;
};

struct OptimizerPlan {
  std::vector<GroupPlan> groups;
  std::size_t state_bytes = 0;
  std::size_t workspace_bytes = 0;
};

// Throws the RequestErrors of Optimizer's constructor.
OptimizerPlan plan_groups(std::span<const ParameterInfo* const> parameters, const OptimizerConfig& config,
                          DType master);

// The table of Optimizer::describe().
std::string describe(const OptimizerPlan& plan, double clip);

}  // namespace spectrain
