// How the kernel's vdpa_sim can be loaded, by the parameter that makes the difference, and what the simulator's devices are made with to be the same.

import { existsSync, readFileSync } from 'node:fs'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'

/**
 * `batch_mapping=0`: every message acts at once, and the sizes of single queues are told. `use_va=0`: pages are pinned, each run of them that happens to lie
 * together in physical memory is an entry of its own.
 */
export type Parent = 'default' | 'batch_mapping=0' | 'use_va=0'

/** What each parent's devices can do besides. */
export const parents: Readonly<Record<Parent, DeviceCapabilities>> = {
  default: {},
  'batch_mapping=0': { mapsAtOnce: true, queueMaxSize: true },
  'use_va=0': { pinsMemory: true, pieceBytes: 4096 },
}

/** Whose golden traces are kept beside those of the default. */
export const otherParents = ['batch_mapping=0', 'use_va=0'] as const satisfies readonly Parent[]

/** RLIMIT_MEMLOCK in the lab, where nothing else was asked for. */
export const LAB_MEMLOCK = 0x80_0000

/** The parent of the kernel that runs, by what its module says. */
export function runningParent(): Parent {
  const folder = '/sys/module/vdpa_sim/parameters'
  if (!existsSync(folder)) throw new Error(`${folder} is not there: vdpa_sim is not loaded`)
  // One of the two is a truth value, the other a number.
  const isOff = (name: string) => ['N', '0'].includes(readFileSync(`${folder}/${name}`, 'utf8').trim())
  const off = otherParents.filter((parent) => isOff(parent.slice(0, -'=0'.length)))
  if (off.length > 1) throw new Error(`no simulation speaks of vdpa_sim with ${off.join(' and ')}`)
  return off[0] ?? 'default'
}
