// Makes a host as a plan says, step by step, and as it was before when a step fails.

import { checkFunction, checkObject, checkSignal } from '../base/checks.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { moveToDriver, unbindDriver } from '../management/binding.js'
import { findDevice, removeDevice, type ReleaseOptions } from '../management/release.js'
import type { NewDevice } from '../management/vdpa-family.js'
import { probeDevices, type DeviceProbe } from './expectations.js'
import { letNode } from './nodes.js'
import { describeStep, openFamily, standings, stepsTo, type PlanHost, type PlanStep, type Standing } from './steps.js'
import { checkPlan, type Plan, type PlannedDevice } from './plan.js'

/** How to apply. */
export interface ApplyOptions extends Pick<ReleaseOptions, 'wait' | 'timeout' | 'signal'> {
  /** Called before the first change with the plan that brings back what is there now: keep it. What it throws ends the whole, and nothing was changed. */
  readonly onJournal?: (before: Plan) => void
  /** Called before each step, the `index`th of `count`. What it throws undoes the steps before. */
  readonly onStep?: (step: PlanStep, index: number, count: number) => void
}

/** What was done. */
export interface Applied {
  /** In order; empty where the host was as the plan says. */
  readonly steps: readonly PlanStep[]
  /** The plan that brings back what was there before. */
  readonly before: Plan
  /** What was seen of devices of which the plan expects something. */
  readonly probes: readonly DeviceProbe[]
}

/**
 * Makes the host as the plan says. Devices are deleted and moved only when nobody has them open (`wait` waits for that). When a step fails, those before are undone in
 * reverse and the failure is thrown; what could not be undone is part of the sentence. At the end the host is looked at again: ERR_VDPA_REFUSED where a device
 * does not show what it was told, and where it is not what the plan expects of it, which is undone as well. Devices of which something is expected are opened for that, and reset by it, unless somebody has
 * them open. Errors: ERR_VDPA_STATE and ERR_VDPA_TIMEOUT name who has a device; ERR_VDPA_PLAN; those of VdpaFamily; ERR_VDPA_CANCELED when
 * `signal` ends it between two steps or while it waits, and what was done is undone. Since 0.1.0.
 */
export async function applyPlan(plan: Plan, host: PlanHost, options: ApplyOptions = {}): Promise<Applied> {
  const wanted = checkPlan(plan)
  checkObject(options, 'options')
  const { onJournal, onStep } = options
  if (onJournal !== undefined) checkFunction(onJournal, 'options.onJournal')
  if (onStep !== undefined) checkFunction(onStep, 'options.onStep')
  checkSignal(options.signal, 'options.signal')
  const was = await standings(host)
  const steps = await stepsTo(wanted, host)
  const before = planBefore(steps, was)
  if (steps.length === 0) return { steps, before, probes: await probeDevices(wanted, host) }
  onJournal?.(before)
  let begun = 0
  try {
    for (const [index, step] of steps.entries()) {
      throwIfCanceled(options)
      onStep?.(step, index, steps.length)
      begun++
      await perform(step, host, options)
    }
    const left = await stepsTo(wanted, host)
    if (left.length > 0)
      throw vdpaError('ERR_VDPA_REFUSED', `the host is not as it was told: ${left.map(describeStep).join('; ')}`)
    return { steps, before, probes: await probeDevices(wanted, host) }
  } catch (failure) {
    return await undo(steps.slice(0, begun), was, host, options, failure)
  }
}

function throwIfCanceled({ signal }: ApplyOptions): void {
  if (signal?.aborted === true)
    throw vdpaError('ERR_VDPA_CANCELED', 'the applying was canceled', { cause: signal.reason as unknown })
}

/** Devices that steps touch, as they were. */
function planBefore(steps: readonly PlanStep[], was: ReadonlyMap<string, Standing>): Plan {
  const touched = [...new Set(steps.map(({ device }) => device))]
  return {
    version: 1,
    devices: touched.map((name): PlannedDevice => {
      return was.get(name)?.facts ?? { name, state: 'absent' }
    }),
  }
}

async function perform(step: PlanStep, host: PlanHost, options: ApplyOptions): Promise<void> {
  const { root = '/' } = host
  const release = {
    ...(options.wait !== undefined && { wait: options.wait }),
    ...(options.timeout !== undefined && { timeout: options.timeout }),
    ...(options.signal !== undefined && { signal: options.signal }),
    root,
  }
  await using family = openFamily(host)
  switch (step.do) {
    case 'make':
      return await family.add(newDevice(step.wish))
    case 'delete':
      return await removeDevice(family, step.device, release)
    case 'set mac':
      return await family.setMac(step.device, step.to)
    case 'set node':
      return await letNode(step.device, step.to, root)
    case 'bind': {
      if (step.to !== 'none') return void (await moveToDriver(step.device, step.to, release))
      const now = await findDevice(step.device, root)
      if (now === undefined || now.driver !== undefined) await unbindDriver(step.device, release)
    }
  }
}

function newDevice({ name, managementDevice = '', mac, mtu, queuePairs, features }: PlannedDevice): NewDevice {
  return {
    name,
    managementDevice,
    ...(mac !== undefined && { mac }),
    ...(mtu !== undefined && { mtu }),
    ...(queuePairs !== undefined && { maxQueuePairs: queuePairs }),
    ...(features !== undefined && { features: BigInt(features) }),
  }
}

/** Brings back what steps changed, the last first, and goes on past failures. The last of them may have been done or not: the host is asked. */
async function undo(
  steps: readonly PlanStep[],
  was: ReadonlyMap<string, Standing>,
  host: PlanHost,
  options: ApplyOptions,
  failure: unknown,
): Promise<never> {
  // What ended the applying does not end this.
  const { signal: _signal, ...patience } = options
  const failures = new Failures()
  failures.keep(failure)
  for (const device of new Set(steps.map((step) => step.device).reverse())) {
    try {
      const back = planBefore([{ do: 'delete', device, why: '' }], was)
      for (const step of await stepsTo(back, host)) await bringBack(step, host, patience)
    } catch (another) {
      failures.keep(another)
    }
  }
  failures.throwMet('the plan was not applied')
  throw failure
}

/** Not all that a device shows is something that its maker can be told: what cannot be was its maker's own choice. */
async function bringBack(step: PlanStep, host: PlanHost, options: ApplyOptions): Promise<void> {
  try {
    await perform(step, host, options)
  } catch (failure) {
    if (step.do !== 'make' || !isVdpaError(failure) || failure.code !== 'EOPNOTSUPP') throw failure
    const { name, managementDevice = '' } = step.wish
    await perform({ ...step, wish: { name, managementDevice } }, host, options)
  }
}
