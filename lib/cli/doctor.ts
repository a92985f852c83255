// `doctor`: what this host has of what vDPA needs, what is missing, and the command that mends it. It opens no node and changes nothing.

import type { Backend } from '../backend/backend.js'
import { isVdpaError } from '../base/errors.js'
import { inventory, type Inventory, type InventoryDevice } from '../inventory.js'
import { describeHolder } from '../management/release.js'
import type { Host } from './host.js'
import type { Paint, Report } from './output.js'

/** One thing that was looked at. */
export interface Finding {
  /** What: `addon`, `module vdpa`, `node of net0` … */
  readonly what: string
  /** `missing` stops something from working; `note` is worth knowing. */
  readonly verdict: 'ok' | 'note' | 'missing'
  /** What was found. */
  readonly text: string
  /** What a person can do about it. */
  readonly remedy?: string
}

const MIB = 1024n * 1024n
/** Devices that pin memory need the guest's whole memory; below this much one surely meets the limit. */
const MEMLOCK_LOW = 1024n * MIB

/** Looks at everything, and ends with what would work and what would not. Exit code 1 when no device could be used. */
export async function doctor(host: Host, paint: Paint): Promise<Report> {
  const backend = tryBackend(host)
  const found = await tryInventory(host)
  const findings = [
    kernelFinding(await host.files.read('proc/sys/kernel/osrelease').catch(() => undefined)),
    addonFinding(backend),
    ...(await moduleFindings(host)),
    ...managementFindings(found),
    ...(await cardFindings(host, found)),
    ...(await deviceFindings(host, found)),
    ...memlockFindings(backend),
    await iommuFinding(host),
  ]
  const usable = await usableDevices(host, found)
  const works = whatWorks(backend, found, usable)
  return {
    data: { host: host.name, findings, works, usable },
    lines: [...findings.flatMap((finding) => findingLines(finding, paint)), '', ...worksLines(works, paint)],
    exitCode: works.every(({ works: does }) => does) ? 0 : 1,
  }
}

type BackendResult = Backend | { readonly failure: string }

function tryBackend(host: Host): BackendResult {
  try {
    return host.backend()
  } catch (failure) {
    return { failure: messageOf(failure) }
  }
}

async function tryInventory(host: Host): Promise<Inventory> {
  try {
    return await inventory({ ...(host.isSimulated && { backend: host.backend() }), root: host.files })
  } catch (failure) {
    return { devices: [], managementDevices: [], managementFailure: messageOf(failure), unreadableProcesses: 0 }
  }
}

function messageOf(failure: unknown): string {
  return isVdpaError(failure) || failure instanceof Error ? failure.message : String(failure)
}

function kernelFinding(release: string | undefined): Finding {
  if (release === undefined)
    return {
      what: 'kernel',
      verdict: 'missing',
      text: `no Linux (${process.platform})`,
      remedy: 'use Linux, or the simulator',
    }
  return { what: 'kernel', verdict: 'ok', text: `Linux ${release.trim()}` }
}

function addonFinding(backend: BackendResult): Finding {
  if (!('failure' in backend)) return { what: 'addon', verdict: 'ok', text: `the ${backend.name} backend is there` }
  return {
    what: 'addon',
    verdict: 'missing',
    text: backend.failure,
    remedy: 'install a C++ compiler and run `npm rebuild vhost-vdpa`',
  }
}

async function moduleFindings(host: Host): Promise<Finding[]> {
  return Promise.all(
    ['vdpa', 'vhost_vdpa'].map(async (name): Promise<Finding> => {
      const isThere = await host.files.list(`sys/module/${name}`).then(
        () => true,
        () => false,
      )
      if (isThere) return { what: `module ${name}`, verdict: 'ok', text: 'loaded' }
      return {
        what: `module ${name}`,
        verdict: 'missing',
        text: 'not loaded (it is never loaded by itself)',
        remedy: `sudo modprobe ${name}`,
      }
    }),
  )
}

function managementFindings({ managementDevices, managementFailure }: Inventory): Finding[] {
  if (managementFailure !== undefined) return [{ what: 'management', verdict: 'note', text: managementFailure }]
  if (managementDevices.length > 0) {
    const names = managementDevices.map(({ handle }) => handle).join(', ')
    return [{ what: 'management', verdict: 'ok', text: `devices can be made by ${names}` }]
  }
  return [
    {
      what: 'management',
      verdict: 'note',
      text: 'nothing here makes devices',
      remedy:
        'load the driver of your hardware (mlx5_vdpa, vp_vdpa, ifcvf, pds_vdpa, octeon_ep_vdpa), or `sudo modprobe vdpa_sim_net`',
    },
  ]
}

/** Cards whose driver makes management devices only when devlink was told to, and how it is told. */
const cards = [
  {
    // A driver of the auxiliary bus: its name says which card a management device is of.
    name: 'mlx5_core',
    module: 'mlx5_vdpa',
    how: (card: string) =>
      `sudo modprobe mlx5_vdpa && sudo devlink dev param set pci/${card} name enable_vnet value true cmode driverinit && sudo devlink dev reload pci/${card} (a scalable function: eswitch in switchdev mode, \`devlink port add\` with flavour pcisf, state active, and the same for auxiliary/mlx5_core.sf.N)`,
  },
  {
    name: 'pds_core',
    module: 'pds_vdpa',
    how: (card: string) =>
      `sudo modprobe pds_vdpa && sudo devlink dev param set pci/${card} name enable_vnet value true cmode runtime`,
  },
] as const

/** A card that could make vDPA devices and does not: the kernel says nothing of it by itself. */
async function cardFindings(host: Host, { managementDevices }: Inventory): Promise<Finding[]> {
  const findings = await Promise.all(
    cards.map(async ({ name, module, how }): Promise<Finding[]> => {
      const entries: readonly string[] = await host.files.list(`sys/bus/pci/drivers/${name}`).catch(() => [])
      const found = entries.filter((entry) => /^[\da-f]{4,}:[\da-f]{2}:[\da-f]{2}\.[0-7]$/.test(entry))
      const makes = managementDevices.some(
        ({ handle }) => handle.startsWith(`auxiliary/${name}`) || found.some((card) => handle === `pci/${card}`),
      )
      const [card] = found
      if (card === undefined || makes) return []
      const text = `${found.join(', ')} could make vDPA devices (${module}) and makes none`
      return [{ what: `card of ${name}`, verdict: 'note', text, remedy: how(card) }]
    }),
  )
  return findings.flat()
}

function deviceFindings(host: Host, { devices }: Inventory): Promise<Finding[]> {
  return Promise.all(devices.map((device) => deviceFinding(host, device)))
}

async function deviceFinding(host: Host, device: InventoryDevice): Promise<Finding> {
  const { name, node, driver, holders } = device
  const what = `device ${name}`
  if (node === undefined) {
    const text = driver === undefined ? 'no driver has it' : `${driver} has it, which makes no node`
    return { what, verdict: 'missing', text, remedy: `sudo vhost-vdpa bind ${name} vhost_vdpa` }
  }
  if (!(await host.files.isAllowed(node.slice(1)))) {
    const remedy = `sudo chgrp kvm ${node} && sudo chmod 660 ${node}, and be in the group kvm`
    return { what, verdict: 'missing', text: `this process may not open ${node}`, remedy }
  }
  if (holders.length > 0)
    return { what, verdict: 'note', text: `${node} is held by ${holders.map(describeHolder).join(', ')}` }
  return { what, verdict: 'ok', text: `${node} can be opened` }
}

function memlockFindings(backend: BackendResult): Finding[] {
  if ('failure' in backend) return []
  const { limit } = backend.memlock()
  if (limit === undefined || limit >= MEMLOCK_LOW)
    return [{ what: 'memlock', verdict: 'ok', text: limit === undefined ? 'no limit' : `${limit / MIB} MiB` }]
  return [
    {
      what: 'memlock',
      verdict: 'note',
      text: `${limit / MIB} MiB may be pinned, by root too; hardware devices pin all memory that is mapped for them`,
      remedy: '`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1:-1 for a container',
    },
  ]
}

async function iommuFinding(host: Host): Promise<Finding> {
  const units: readonly string[] = await host.files.list('sys/class/iommu').catch(() => [])
  if (units.length > 0) return { what: 'IOMMU', verdict: 'ok', text: units.join(', ') }
  return {
    what: 'IOMMU',
    verdict: 'note',
    text: 'none: simulated devices and VDUSE need none, hardware devices mostly do',
    remedy: 'switch it on in the firmware, and boot with intel_iommu=on where the processor is Intel',
  }
}

async function usableDevices(host: Host, { devices }: Inventory): Promise<string[]> {
  const allowed = await Promise.all(
    devices.map(async ({ name, node, holders }) => {
      const isUsable = node !== undefined && holders.length === 0 && (await host.files.isAllowed(node.slice(1)))
      return isUsable ? [name] : []
    }),
  )
  return allowed.flat()
}

interface Ability {
  readonly what: string
  readonly works: boolean
}

function whatWorks(backend: BackendResult, found: Inventory, usable: readonly string[]): Ability[] {
  const hasBackend = !('failure' in backend)
  return [
    { what: 'developing and testing on the simulator', works: true },
    { what: 'listing and making devices', works: hasBackend && found.managementDevices.length > 0 },
    { what: 'opening a device', works: hasBackend && usable.length > 0 },
  ]
}

function findingLines({ what, verdict, text, remedy }: Finding, paint: Paint): string[] {
  const mark = { ok: paint('green', 'ok     '), note: paint('yellow', 'note   '), missing: paint('red', 'missing') }[
    verdict
  ]
  return [`${mark}  ${what}: ${text}`, ...(remedy === undefined ? [] : [`         ${paint('dim', remedy)}`])]
}

function worksLines(works: readonly Ability[], paint: Paint): string[] {
  return works.map(({ what, works: does }) =>
    does ? `${paint('green', 'works')}       ${what}` : `${paint('red', 'would not')}   ${what}`,
  )
}
