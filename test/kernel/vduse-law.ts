// What VDUSE is on the kernels that the lab boots, entry by entry: suites ask the same on each, and these are the answers that differ.

import type { GoldenLaw } from '../golden/read.js'
import { labProfile, labVariable } from './support.js'

/** The answers of one kernel. */
export interface VduseLaw {
  /** The newest version of the interface that it speaks. */
  readonly 'api-version': 0 | 1
  /** Groups and address spaces of a device that was made with two of each. */
  readonly 'groups-and-spaces': readonly [groups: number, spaces: number]
  /** VHOST_VDPA_GET_VRING_GROUP of a device of version 0: a group, or a refusal. */
  readonly 'group-of-queue-at-version-0': number | string
  /** VHOST_VDPA_SET_GROUP_ASID of a device of version 0, to where the group is. */
  readonly 'move-of-group-at-version-0': string
  /** Whether the kernel has its server suspend a device. */
  readonly suspends: boolean
}

const laws: Readonly<Record<GoldenLaw, VduseLaw>> = {
  'linux-6.12': {
    'api-version': 0,
    'groups-and-spaces': [1, 1],
    'group-of-queue-at-version-0': 'EOPNOTSUPP',
    'move-of-group-at-version-0': 'EOPNOTSUPP',
    suspends: false,
  },
  'linux-7': {
    'api-version': 1,
    'groups-and-spaces': [2, 2],
    'group-of-queue-at-version-0': 0,
    'move-of-group-at-version-0': 'EINVAL',
    suspends: false,
  },
}

/** Of kernels 7.3 and later. */
const since73 = () => /^7\.([3-9]|\d\d)/.test(labVariable('LAB_KERNEL'))

/** The law of the kernel that runs. */
export const vduseLaw = (): VduseLaw => ({ ...laws[labProfile()], ...(since73() && { suspends: true }) })
