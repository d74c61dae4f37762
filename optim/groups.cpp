#include "optim/groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "optim/after_step.h"
#include "optim/check_option.h"

namespace spectrain {

namespace {

constexpr std::size_t kRoles = 6;       // that are trained
constexpr std::size_t kAlignment = 64;  // of every tensor of state: a cache line, a vector register

std::int64_t trained_rows(const ParameterInfo& p) {
  return p.shape.rank() == 2 && p.logical_rows > 0 ? p.logical_rows : p.shape.rows();
}

std::vector<PartPlan> parts_of(const ParameterInfo& p, bool by_matrix) {
  std::vector<PartPlan> parts;
  if (by_matrix && !p.splits.empty()) {
    std::int64_t row = 0;
    for (const std::int64_t rows : p.splits) {
      parts.push_back({row, Shape{rows, p.shape.cols()}});
      row += rows;
    }
    if (row != p.shape.rows() || row != trained_rows(p))
      throw std::logic_error(fmt::format("{}: the splits of {} cover {} of {} trained rows", p.name,
                                         p.shape.str(), row, trained_rows(p)));
    return parts;
  }
  if (by_matrix && p.shape.rank() > 2) {  // filters of a convolution: [out, in, height, width]
    parts.push_back({0, Shape{p.shape[0], p.shape.numel() / p.shape[0]}});
    return parts;
  }
  const bool padded = trained_rows(p) != p.shape.rows();
  parts.push_back({0, padded ? Shape{trained_rows(p), p.shape.cols()} : p.shape});
  return parts;
}

// The group of each role.
std::array<std::optional<std::size_t>, kRoles> owners(const std::vector<GroupConfig>& groups) {
  std::array<std::optional<std::size_t>, kRoles> owner;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].parameters.empty())
      throw RequestError(fmt::format(
          "optimizer group {} names no parameters; give it at least one role, such as hidden", g));
    for (const Role role : groups[g].parameters) {
      auto& o = owner[static_cast<std::size_t>(role)];
      if (o)
        throw RequestError(fmt::format("the role '{}' is in optimizer groups {} and {}; leave it in one",
                                       name_of(role), *o, g));
      o = g;
    }
  }
  return owner;
}

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Names and shapes of a parameter's state; returns its bytes.
std::size_t plan_state(const ParameterInfo& p, const UpdateRule& rule, DType master, MemberPlan& m) {
  const std::vector<StateSlot> slots = rule.state(m.parts[0].shape);
  std::size_t bytes = 0;
  for (std::size_t k = 0; k < slots.size(); ++k) {
    StatePlan plan{
        fmt::format("{}.{}", p.name, slots[k].name), slots[k].shape, dtype_of(slots[k].storage, master), {}};
    std::int64_t numel = 0;
    bool tiles = true;
    for (const PartPlan& part : m.parts) {
      const Shape shape = rule.state(part.shape)[k].shape;
      plan.first.push_back(numel);
      numel += shape.numel();
      tiles = tiles && shape == part.shape;
    }
    if (m.parts.size() > 1) plan.shape = tiles ? p.shape : Shape{numel};
    bytes += aligned(static_cast<std::size_t>(numel) * size_of(plan.dtype));
    m.state.push_back(std::move(plan));
  }
  return bytes;
}

// False: the rule cannot update it.
bool takes(const UpdateRule& rule, const ParameterInfo& p) {
  for (const PartPlan& part : parts_of(p, rule.wants_matrices()))
    if (!rule.objection(part.shape).empty()) return false;
  return true;
}

void add_member(const ParameterInfo& p, std::size_t index, DType master, GroupPlan& group) {
  MemberPlan m{index, parts_of(p, group.rule->wants_matrices()), {}};
  group.state_bytes += plan_state(p, *group.rule, master, m);
  for (const PartPlan& part : m.parts) group.parameters += part.shape.numel();
  group.members.push_back(std::move(m));
}

std::unique_ptr<UpdateRule> rule_of(const RuleOptions& options, const FinishOptions& finish,
                                    const GroupConfig& g, const OptimizerConfig& config) {
  std::unique_ptr<UpdateRule> rule = options.make(finish);
  if (g.look_ahead.strength > 0 && finish.storage == StoredAs::bf16)
    throw RequestError(fmt::format(
        "{}: look_ahead moves weights after they were rounded; leave it or storage bf16 out", rule->name()));
  if (g.look_ahead.strength > 0) rule = std::make_unique<LookAhead>(std::move(rule), g.look_ahead);
  if (config.average.from > 0) rule = std::make_unique<Average>(std::move(rule), config.average);
  return rule;
}

std::string roles_of(const GroupPlan& g) {
  std::string s;
  for (const Role role : g.roles) s += fmt::format("{}{}", s.empty() ? "" : ", ", name_of(role));
  return s;
}

std::string megabytes(std::size_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

std::string with_commas(std::int64_t n) {
  std::string s = fmt::format("{}", n);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(s.size()) - 3; i > 0; i -= 3)
    s.insert(static_cast<std::size_t>(i), ",");
  return s;
}

}  // namespace

std::vector<Shape> GroupPlan::part_shapes() const {
  std::vector<Shape> shapes;
  for (const MemberPlan& m : members)
    for (const PartPlan& part : m.parts) shapes.push_back(part.shape);
  return shapes;
}

OptimizerPlan plan_groups(std::span<const ParameterInfo* const> parameters, const OptimizerConfig& config,
                          DType master) {
  check_not_negative("optimizer", "clip", config.clip);
  const auto owner = owners(config.groups);
  OptimizerPlan plan;
  std::vector<GroupPlan> small;  // by group: those of its parameters that its rule cannot update
  for (const GroupConfig& g : config.groups) {
    plan.groups.push_back({g.parameters, false, rule_of(g.rule, g.finish, g, config), {}});
    small.push_back({g.parameters, true, rule_of(g.elementwise, {}, g, config), {}});
    if (small.back().rule->name() != g.elementwise.info().name || g.elementwise.info().matrices)
      throw RequestError(
          fmt::format("the elementwise rule of an optimizer group is {}, which is for matrices",
                      g.elementwise.info().name));
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ParameterInfo& p = *parameters[i];
    if (p.role == Role::fixed) continue;
    const auto group = owner[static_cast<std::size_t>(p.role)];
    if (!group)
      throw RequestError(
          fmt::format("no optimizer group updates '{}'; add its role '{}' to a group's parameters", p.name,
                      name_of(p.role)));
    const bool taken = takes(*plan.groups[*group].rule, p);
    add_member(p, i, master, taken ? plan.groups[*group] : small[*group]);
  }
  for (std::size_t g = small.size(); g-- > 0;)
    if (!small[g].members.empty())
      plan.groups.insert(plan.groups.begin() + static_cast<std::ptrdiff_t>(g) + 1, std::move(small[g]));
  for (const GroupPlan& g : plan.groups) plan.state_bytes += g.state_bytes;
  return plan;
}

std::size_t workspace_bytes(const OptimizerPlan& plan, const BackendSizes& backend) {
  std::size_t bytes = 0;
  for (const GroupPlan& g : plan.groups)
    if (!g.members.empty()) bytes += g.rule->workspace_bytes(g.part_shapes(), backend);
  return bytes;
}

std::vector<Piece> whole_parts(const OptimizerPlan& plan) {
  std::vector<Piece> pieces;
  for (std::size_t g = 0; g < plan.groups.size(); ++g)
    for (std::size_t m = 0; m < plan.groups[g].members.size(); ++m) {
      const std::vector<PartPlan>& parts = plan.groups[g].members[m].parts;
      for (std::size_t i = 0; i < parts.size(); ++i) pieces.push_back({g, m, i, 0, parts[i].shape});
    }
  return pieces;
}

namespace {

// One slot of the pieces [begin, end) of one member.
void layout_slot(const OptimizerPlan& plan, std::span<const Piece> pieces, std::size_t begin, std::size_t end,
                 std::size_t slot, StateLayout& layout) {
  const GroupPlan& group = plan.groups[pieces[begin].group];
  const MemberPlan& member = group.members[pieces[begin].member];
  const StatePlan& state = member.state[slot];
  std::size_t offset = layout.bytes;
  StateRun* run = nullptr;
  for (std::size_t i = begin; i < end; ++i) {
    const Piece& piece = pieces[i];
    const Shape shape = group.rule->state(piece.shape)[slot].shape;
    const std::int64_t first = state.first[piece.part] + piece.first;
    if (!run || run->first + run->count != first) {
      layout.runs.push_back({state.name, member.parameter, state.shape, state.dtype, first, 0, offset});
      run = &layout.runs.back();
    }
    run->count += shape.numel();
    layout.offsets[i].push_back(offset);
    layout.shapes[i].push_back(shape);
    layout.dtypes[i].push_back(state.dtype);
    offset += static_cast<std::size_t>(shape.numel()) * size_of(state.dtype);
  }
  layout.bytes = aligned(offset);
}

}  // namespace

StateLayout layout_state(const OptimizerPlan& plan, std::span<const Piece> pieces) {
  StateLayout layout;
  layout.offsets.resize(pieces.size());
  layout.shapes.resize(pieces.size());
  layout.dtypes.resize(pieces.size());
  for (std::size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    const auto same = [&](const Piece& p) {
      return p.group == pieces[begin].group && p.member == pieces[begin].member;
    };
    while (end < pieces.size() && same(pieces[end])) ++end;
    const std::size_t slots = plan.groups[pieces[begin].group].members[pieces[begin].member].state.size();
    for (std::size_t k = 0; k < slots; ++k) layout_slot(plan, pieces, begin, end, k, layout);
  }
  std::stable_sort(layout.runs.begin(), layout.runs.end(),
                   [](const StateRun& a, const StateRun& b) { return a.parameter < b.parameter; });
  return layout;
}

std::string describe(const OptimizerPlan& plan, double clip, const BackendSizes& backend) {
  std::vector<std::array<std::string, 8>> rows = {
      {"parameters", "tensors", "numbers", "rule", "lr", "decay", "state", "settings"}};
  for (const GroupPlan& g : plan.groups)
    rows.push_back({roles_of(g) + (g.elementwise ? " (small)" : ""), fmt::format("{}", g.members.size()),
                    with_commas(g.parameters), std::string(g.rule->name()), fmt::format("{}", g.rule->lr()),
                    fmt::format("{}", g.rule->weight_decay()), megabytes(g.state_bytes), g.rule->settings()});
  std::array<std::size_t, 8> width{};
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());

  std::string text;
  for (const auto& row : rows)
    text += fmt::format("{:<{}}  {:>{}}  {:>{}}  {:<{}}  {:>{}}  {:>{}}  {:>{}}  {}\n", row[0], width[0],
                        row[1], width[1], row[2], width[2], row[3], width[3], row[4], width[4], row[5],
                        width[5], row[6], width[6], row[7]);
  text += fmt::format("workspace {}, {}\n", megabytes(workspace_bytes(plan, backend)),
                      clip > 0 ? fmt::format("gradients clipped to norm {}", clip) : "gradients not clipped");
  return text;
}

}  // namespace spectrain
