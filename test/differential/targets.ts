// The two devices that both the kernel and the simulator have, as the differential tests need them.

import type { DeviceOps } from '../../lib/models/device-ops.js'
import { blockDevice, networkDevice, Simulator, type Profile } from '../../lib/simulator/index.js'
import type { Side } from './compare.js'
import type { Subject } from './sequence.js'

export interface Target {
  readonly subject: Subject
  make(path: string): DeviceOps
}

const network = (path: string) => networkDevice({ path, mac: '00:11:22:33:44:55' })
const block = (path: string) => blockDevice({ path })

const [anyNetwork, anyBlock] = [network('/dev/vhost-vdpa-0'), block('/dev/vhost-vdpa-0')]

export const targets = {
  vdpa_sim_net: {
    subject: { queues: 3, addressSpaces: 2, features: anyNetwork.features(), config: anyNetwork.config.slice() },
    make: network,
  },
  vdpa_sim_blk: {
    subject: { queues: 1, addressSpaces: 1, features: anyBlock.features(), config: anyBlock.config.slice() },
    make: block,
  },
} as const satisfies Record<string, Target>

export type TargetName = keyof typeof targets

/** The simulator as one side: a new one for each sequence. */
export function simulated(name: TargetName, profile: Profile): Side {
  const path = '/dev/vhost-vdpa-0'
  return {
    name: `simulator (${profile})`,
    path,
    backend: () => {
      const simulator = new Simulator({ profile, scheduler: 'manual' })
      simulator.add(targets[name].make(path))
      return simulator
    },
  }
}

/** A number from the environment, or the default. */
export function numberFrom(variable: string, otherwise: number): number {
  const text = process.env[variable]
  const value = text === undefined || text === '' ? otherwise : Number(text)
  if (!Number.isSafeInteger(value)) throw new RangeError(`${variable} must be an integer, got ${text}`)
  return value
}
