// How much memory the processes of a plan must be allowed to lock. It asks nothing of a host, and sets no limit: whoever starts a process does.

import { checkData } from '../base/checks.js'
import type { Plan } from './plan.js'

/** What one process must be allowed to lock. */
export interface MemlockNeed {
  /** As the plan names it. */
  readonly process: string
  /** Its devices, in the plan's order. */
  readonly devices: readonly string[]
  /** Bytes for RLIMIT_MEMLOCK. */
  readonly bytes: bigint
}

const GIB = 2n ** 30n
const units: Readonly<Record<string, bigint>> = { KiB: 2n ** 10n, MiB: 2n ** 20n, GiB: GIB, TiB: 2n ** 40n }

/**
 * RLIMIT_MEMLOCK for each process that a plan names with memory: hardware pins what is mapped once for each device, so that the memory of all its devices is added up, and 1 GiB
 * for rings, buffers and what else the process locks (as libvirt counts). There is no way past the limit, for root neither. Since 0.1.0.
 */
export function memlockNeeds(plan: Plan): MemlockNeed[] {
  checkData(plan, 'plan', ['devices'])
  const needs = new Map<string, { devices: string[]; bytes: bigint }>()
  for (const { name, process, memory, state } of plan.devices) {
    if (process === undefined || memory === undefined || state === 'absent') continue
    const need = needs.get(process) ?? { devices: [], bytes: GIB }
    needs.set(process, need)
    need.devices.push(name)
    need.bytes += bytesOf(memory)
  }
  return [...needs].map(([process, { devices, bytes }]) => ({ process, devices, bytes }))
}

/** A need as a person reads it, with what a unit of systemd says. */
export function describeNeed(need: MemlockNeed): string {
  checkData(need, 'need', ['devices'])
  const { process, devices, bytes } = need
  return `${process} locks up to ${bytes} bytes for ${devices.join(', ')}: LimitMEMLOCK=${bytes}`
}

/** The schema let through a number and a unit. */
function bytesOf(memory: string): bigint {
  const [, count = '0', unit = ''] = /^(\d+) ?(\w+)$/.exec(memory) ?? []
  return BigInt(count) * (units[unit] ?? 0n)
}
