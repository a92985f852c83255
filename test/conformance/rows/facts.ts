// What is known of the devices that rows run on, and what rows may need of them. Data, so that a row that runs nowhere is found out.

import type { Profile } from '../../../lib/simulator/profiles.js'

/** What a device is, whoever stands behind it. */
export interface DeviceFacts {
  readonly name: string
  readonly deviceId: number
  readonly queues: number
  readonly groups: number
  readonly addressSpaces: number
  readonly configSize: number
  readonly lastIova: bigint
  /** The law that it obeys: that of the specification and the newest kernels, or that of a release of Linux. */
  readonly law: Profile
  /** Which of the published descriptions of simulator devices fits. */
  readonly shape: 'net simulator' | 'block simulator' | 'other'
  /** It answers questions about virtqueue groups. */
  readonly hasGroups: boolean
  readonly canSuspend: boolean
  readonly hasDoorbell: boolean
  /** It pins what is mapped, in whole pages: memory behind an IOMMU. */
  readonly doesPin: boolean
  /** Mappings change at each message, not at the end of its batch. */
  readonly mapsAtOnce: boolean
  /** A queue's position can be set and read before FEATURES_OK, and need not be the initial one. */
  readonly keepsPositions: boolean
  /** It refuses features without VIRTIO_F_ACCESS_PLATFORM. */
  readonly insistsOnPlatform: boolean
  readonly hasPacked: boolean
  /** It is a network device whose frames come back. */
  readonly isLoopback: boolean
  readonly hasControlQueue: boolean
  /** The process has memory besides regions, as real ones have. */
  readonly hasPrivateMemory: boolean
  /** It stands in a simulator: a row may make a device of its own. */
  readonly takesDevices: boolean
  /** The descriptor of its node means something to the system. */
  readonly isKernel: boolean
}

interface NeedOf {
  readonly isMet: (facts: DeviceFacts) => boolean
  /** Why not, and what would show it. */
  readonly otherwise: string
}

const need = (isMet: NeedOf['isMet'], otherwise: string): NeedOf => ({ isMet, otherwise })

/** What rows may need. */
export const needs = {
  netShape: need(({ shape }) => shape === 'net simulator', 'the numbers are those of vdpa_sim_net'),
  blockShape: need(({ shape }) => shape === 'block simulator', 'the numbers are those of vdpa_sim_blk'),
  otherShape: need(({ shape }) => shape === 'other', 'the row is about devices that are neither simulator of Linux'),
  groups: need(({ hasGroups }) => hasGroups, 'the device has no virtqueue groups; vdpa_sim_net has'),
  noGroups: need(({ hasGroups }) => !hasGroups, 'the row is about a parent driver without groups, such as vp_vdpa'),
  spaces: need(({ addressSpaces }) => addressSpaces > 1, 'the device has one address space; vdpa_sim_net has two'),
  spareIndex: need(
    ({ groups, queues }) => groups < queues,
    'the device has as many groups as queues, so no index is a queue and not a group; vdpa_sim_net has fewer',
  ),
  suspend: need(({ canSuspend }) => canSuspend, 'the parent driver cannot suspend; vdpa_sim can'),
  noSuspend: need(({ canSuspend }) => !canSuspend, 'the row is about a parent driver that cannot suspend: vp_vdpa'),
  doorbell: need(({ hasDoorbell }) => hasDoorbell, 'the device has no doorbell pages; vp_vdpa has'),
  noDoorbell: need(({ hasDoorbell }) => !hasDoorbell, 'the row is about devices without doorbell pages: vdpa_sim'),
  pinning: need(({ doesPin }) => doesPin, 'the parent driver pins nothing; vp_vdpa behind an IOMMU does'),
  noPinning: need(({ doesPin }) => !doesPin, 'the parent driver pins memory; vdpa_sim reaches it through the process'),
  window: need(
    ({ lastIova }) => lastIova < 0xffff_ffff_ffff_ffffn,
    'every address is inside the IOVA range of the device; vp_vdpa has 39 bits',
  ),
  control: need(({ hasControlQueue }) => hasControlQueue, 'the device has no control queue; network devices have'),
  loopback: need(({ isLoopback }) => isLoopback, 'frames do not come back from this device; vdpa_sim_net loops them'),
  pairs: need(
    ({ takesDevices, law }) => takesDevices && law === 'strict',
    'no device here has a second pair, the command for it, and a loopback to see its traffic by; the simulator under the law takes one that has',
  ),
  packed: need(({ hasPacked }) => hasPacked, 'the device has no packed rings; virtio-net-pci with packed=on has'),
  positions: need(({ keepsPositions }) => keepsPositions, 'vp_vdpa keeps no position of a queue; vdpa_sim does'),
  noPositions: need(({ keepsPositions }) => !keepsPositions, 'the row is about vp_vdpa, which keeps no positions'),
  privateMemory: need(
    ({ hasPrivateMemory }) => hasPrivateMemory,
    'the pretended process has no memory but regions; a real one has',
  ),
  ownDevice: need(
    ({ takesDevices }) => takesDevices,
    'no device of Linux 6.12 and this lab is so; the simulator takes one that is made for the row',
  ),
  kernel: need(({ isKernel }) => isKernel, 'the descriptor is one of the simulator; only a kernel can be asked'),
} satisfies Readonly<Record<string, NeedOf>>

/** What a row may need. */
export type Need = keyof typeof needs

const simulatedNet: DeviceFacts = {
  name: 'the simulated network device (linux-6.12)',
  deviceId: 1,
  queues: 3,
  groups: 2,
  addressSpaces: 2,
  configSize: 24,
  lastIova: 0xffff_ffff_ffff_ffffn,
  law: 'linux-6.12',
  shape: 'net simulator',
  hasGroups: true,
  canSuspend: true,
  hasDoorbell: false,
  doesPin: false,
  mapsAtOnce: false,
  keepsPositions: true,
  insistsOnPlatform: true,
  hasPacked: false,
  isLoopback: true,
  hasControlQueue: true,
  hasPrivateMemory: true,
  takesDevices: true,
  isKernel: false,
}

const simulatedBlock: DeviceFacts = {
  ...simulatedNet,
  name: 'the simulated block device (linux-6.12)',
  deviceId: 2,
  queues: 1,
  groups: 1,
  addressSpaces: 1,
  configSize: 96,
  shape: 'block simulator',
  isLoopback: false,
  hasControlQueue: false,
}

/** A device as hardware is: no groups, no suspension, memory pinned behind a window, doorbells. */
const simulatedHardware: DeviceFacts = {
  ...simulatedNet,
  name: 'simulated hardware (linux-6.12)',
  deviceId: 16,
  queues: 2,
  groups: 1,
  addressSpaces: 1,
  configSize: 8,
  lastIova: 0x7f_ffff_ffffn,
  shape: 'other',
  hasGroups: false,
  canSuspend: false,
  hasDoorbell: true,
  doesPin: true,
  isLoopback: false,
  hasControlQueue: false,
  hasPacked: true,
  hasPrivateMemory: false,
}

/** vdpa_sim loaded with batch_mapping=0. */
const simulatedAtOnce: DeviceFacts = {
  ...simulatedNet,
  name: 'the simulated network device (linux-6.12, batch_mapping=0)',
  mapsAtOnce: true,
}

const strict = (facts: DeviceFacts): DeviceFacts => ({
  ...facts,
  law: 'strict',
  name: facts.name.replace('linux-6.12', 'strict'),
})

const onKernel = (facts: DeviceFacts, name: string): DeviceFacts => ({
  ...facts,
  name,
  takesDevices: false,
  hasPrivateMemory: true,
  isKernel: true,
})

const pci: DeviceFacts = {
  ...onKernel(simulatedHardware, 'vp_vdpa'),
  deviceId: 1,
  queues: 3,
  configSize: 4096,
  hasControlQueue: true,
  keepsPositions: false,
  insistsOnPlatform: false,
  hasPacked: false,
}

/** Every device that rows run on, by a short name. */
export const deviceFacts = {
  network: simulatedNet,
  block: simulatedBlock,
  hardware: simulatedHardware,
  atOnce: simulatedAtOnce,
  strictNetwork: strict(simulatedNet),
  strictBlock: strict(simulatedBlock),
  strictHardware: strict(simulatedHardware),
  kernelNetwork: onKernel(simulatedNet, 'vdpa_sim_net'),
  kernelBlock: onKernel(simulatedBlock, 'vdpa_sim_blk'),
  kernelPci: pci,
  kernelPciPacked: { ...pci, name: 'vp_vdpa with packed rings', hasPacked: true },
} satisfies Readonly<Record<string, DeviceFacts>>
