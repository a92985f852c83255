// The public door `vhost-vdpa/plan`: which devices a host should have, and making it so.
/// <reference types="node" preserve="true" />

export {
  formatPlan,
  parsePlan,
  type Plan,
  type PlannedDevice,
  type PlannedExpectation,
  type PlannedNode,
} from './plan.js'
export { describeNeed, memlockNeeds, type MemlockNeed } from './memlock.js'
export { planSchema } from './schema.js'
export { describeStep, planSteps, standings, type PlanHost, type PlanStep, type Standing } from './steps.js'
export { describeProbe, type DeviceProbe } from './expectations.js'
export { applyPlan, type Applied, type ApplyOptions } from './apply.js'
