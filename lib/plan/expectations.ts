// What plans expect of devices, looked for in the devices themselves. To look opens a device, which resets it: those that somebody has open are left alone.

import { checkObject } from '../base/checks.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { describeHolder, findDevice, holdersOf } from '../management/release.js'
import { openDevice } from '../open.js'
import type { Plan, PlannedExpectation } from './plan.js'
import type { PlanHost } from './steps.js'

/** What was seen of a device of which a plan expects something. */
export type DeviceProbe =
  | {
      /** The name of the device. */
      readonly device: string
      /** It was not looked at: who has it open. */
      readonly heldBy: string
    }
  | {
      /** The name of the device. */
      readonly device: string
      /** How many groups of virtqueues; 0 for a device without groups. */
      readonly groups: number
      /** How many address spaces. */
      readonly addressSpaces: number
      /** Why the control queue cannot have an address space of its own; absent where it can. */
      readonly notIsolated?: string
    }

/**
 * Looks at all devices of a plan that expects something of them. Opens those that nobody has open, one after the other, and closes them. ERR_VDPA_REFUSED names all that is not as expected; errors as
 * of openDevice() and of negotiate().
 */
export async function probeDevices(plan: Plan, host: PlanHost): Promise<DeviceProbe[]> {
  const probes: DeviceProbe[] = []
  const complaints: string[] = []
  for (const { name, expect, state } of plan.devices) {
    if (expect === undefined || state === 'absent') continue
    const probe = await probeOf(name, host)
    probes.push(probe)
    complaints.push(...complaintsAbout(expect, probe).map((complaint) => `${name} ${complaint}`))
  }
  if (complaints.length > 0)
    throw vdpaError('ERR_VDPA_REFUSED', `the devices are not what the plan expects: ${complaints.join('; ')}`)
  return probes
}

async function probeOf(name: string, { backend, root }: PlanHost): Promise<DeviceProbe> {
  const holders = await holdersOf(name, root)
  if (holders.length > 0) return { device: name, heldBy: holders.map(describeHolder).join(', ') }
  const node = (await findDevice(name, root))?.node
  if (node === undefined) throw vdpaError('ERR_VDPA_STATE', 'it has no node to be looked at', { path: name })
  try {
    await using device = await openDevice(node, { backend })
    return { device: name, ...(await seen(device)) }
  } catch (failure) {
    if (!isVdpaError(failure) || failure.code !== 'EBUSY') throw failure
    return { device: name, heldBy: 'somebody whom this process cannot see' }
  }
}

async function seen(device: VdpaDevice) {
  if (device.kind === 'net')
    await (device as VdpaDevice<'net'>).negotiate([], { optional: ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'] })
  else await device.negotiate([])
  const control = device.controlQueueIndex
  const verdict = control === undefined ? undefined : device.groups.isolation(control)
  const reason = verdict === undefined ? 'it has none' : verdict.isolated ? undefined : verdict.reason
  return {
    groups: device.groups.count,
    addressSpaces: device.addressSpaceCount,
    ...(reason !== undefined && { notIsolated: reason }),
  }
}

function complaintsAbout(expect: PlannedExpectation, probe: DeviceProbe): string[] {
  if ('heldBy' in probe) return []
  const { groups = 0, addressSpaces = 0, isolatedControlQueue } = expect
  return [
    ...(probe.groups < groups ? [`has ${probe.groups} groups and not ${groups}`] : []),
    ...(probe.addressSpaces < addressSpaces
      ? [`has ${probe.addressSpaces} address spaces and not ${addressSpaces}`]
      : []),
    ...(isolatedControlQueue === true && probe.notIsolated !== undefined
      ? [`cannot have its control queue alone: ${probe.notIsolated}`]
      : []),
  ]
}

/** What was seen, as a person reads it. */
export function describeProbe(probe: DeviceProbe): string {
  checkObject(probe, 'probe')
  if ('heldBy' in probe) return `${probe.device} was not looked at: ${probe.heldBy} has it`
  const { device, groups, addressSpaces, notIsolated } = probe
  const control =
    notIsolated === undefined ? 'its control queue can be alone' : `no control queue alone: ${notIsolated}`
  return `${device} has ${groups} groups and ${addressSpaces} address spaces; ${control}`
}
