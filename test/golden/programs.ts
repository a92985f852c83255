// What the golden traces were recorded of: programs of raw requests. They judge nothing; the kernel's answers are the judgement.

import type { Backend } from '../../lib/backend/backend.js'
import { messages, ranges, spaces } from './iotlb.js'
import { config, groups, negotiation, queues, suspension } from './laws.js'
import { lifecycle } from './lifecycle.js'
import { tours } from './tour.js'

/** The kernel's devices that the simulator has too. */
export const goldenDevices = ['vdpa_sim_net', 'vdpa_sim_blk'] as const
export type GoldenDevice = (typeof goldenDevices)[number]

/** The variable that has the device's path in the kernel lab. */
export const goldenVariables: Readonly<Record<GoldenDevice, string>> = {
  vdpa_sim_net: 'VHOST_VDPA_NET',
  vdpa_sim_blk: 'VHOST_VDPA_BLOCK',
}

/** A program opens the node at `path` itself, and leaves it closed. */
export type GoldenProgram = (backend: Backend, path: string) => Promise<void>

/** By name; each is recorded on each device, as `<device>.<program>.jsonl`. */
export const goldenPrograms: Readonly<Record<string, GoldenProgram>> = {
  lifecycle,
  negotiation,
  queues,
  config,
  groups,
  suspension,
  messages,
  ranges,
  spaces,
  ...tours,
}

/** The names of all traces. */
export function goldenNames(): string[] {
  return goldenDevices.flatMap((device) => Object.keys(goldenPrograms).map((program) => `${device}.${program}`))
}
