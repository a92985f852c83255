// The simulator with the kernel's profile against the kernel, for the suites in test/kernel. One suite a device, so that two of them use two processors.

import { expect, test } from '@jest/globals'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { goldenVariables } from '../golden/programs.js'
import { labProfile, labVariable } from '../kernel/support.js'
import { Simulator } from '../../lib/simulator/index.js'
import { compare } from './compare.js'
import { compareTraffic } from './compare-traffic.js'
import { numberFrom, simulated, targets, type TargetName } from './targets.js'
import { kinds } from './traffic-kinds.js'

/** Where the numbers begin unless VDPA_SEED says otherwise: a change is judged by the sequences that judged the one before it. */
const FIRST_SEED = 1

/**
 * The same random sequences on both, and not one difference. A failure prints the shortest sequence that shows one; the seed is in the test's name, and VDPA_SEED
 * runs it again. VDPA_RUNS says how many sequences; the default makes 10,000 with both devices.
 */
export function describeDifferential(name: TargetName): void {
  const seed = numberFrom('VDPA_SEED', FIRST_SEED)
  const runs = numberFrom('VDPA_RUNS', 5000)

  test(`${name} answers ${runs} sequences as its simulation does (seed ${seed})`, () => {
    const kernel = new KernelBackend()
    const sides = [
      { name: 'kernel', path: labVariable(goldenVariables[name]), backend: () => kernel, isKept: true },
      simulated(name, labProfile()),
    ] as const
    const began = Date.now()
    const { found, ...counts } = compare({ sides, subject: targets[name].subject, seed, runs })
    console.log(`${name}, seed ${seed}: ${JSON.stringify(counts)} in ${Date.now() - began} ms`)
    expect(found?.text).toBeUndefined()
    expect(counts.sequences).toBe(runs)
    expect(counts.fewestRequests).toBeGreaterThanOrEqual(20)
  }, 1_500_000)
}

/**
 * The same with traffic: chains of random shape while the device runs, is suspended, loses its mappings. The kernel's device works on a thread of its own, so
 * each look waits until it shows what the simulator's did, for a while. VDPA_TRAFFIC_RUNS says how many sequences.
 */
export function describeTraffic(name: TargetName): void {
  const seed = numberFrom('VDPA_SEED', FIRST_SEED)
  const runs = numberFrom('VDPA_TRAFFIC_RUNS', 150)

  test(`${name} moves the traffic of ${runs} sequences as its simulation does (seed ${seed})`, async () => {
    const path = '/dev/vhost-vdpa-0'
    const simulator = () => {
      const backend = new Simulator({ profile: labProfile(), scheduler: 'manual' })
      backend.add(targets[name].make(path))
      return { backend, path }
    }
    const other = { backend: new KernelBackend(), path: labVariable(goldenVariables[name]) }
    const began = Date.now()
    const { subject } = targets[name]
    const { found, ...counts } = await compareTraffic({ subject, kind: kinds[name], simulator, other, seed, runs })
    console.log(`${name}, traffic, seed ${seed}: ${JSON.stringify(counts)} in ${Date.now() - began} ms`)
    expect(found).toBeUndefined()
    expect(counts.sequences).toBe(runs)
  }, 600_000)
}
