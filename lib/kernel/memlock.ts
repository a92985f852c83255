// How much this process may pin and map: limits that the kernel tells in files.

import { readFileSync } from 'node:fs'

/** What the process may pin, and what it has pinned. */
export interface Memlock {
  /** Bytes; undefined is unlimited. */
  readonly limit: bigint | undefined
  /** Bytes. */
  readonly pinned: bigint
}

/** From the texts of /proc/self/limits and /proc/self/status. */
export function parseMemlock(limits: string, status: string): Memlock {
  const limit = /^Max locked memory\s+(\d+|unlimited)\s/m.exec(limits)?.[1]
  const pinned = /^VmPin:\s+(\d+) kB$/m.exec(status)?.[1]
  return {
    limit: limit === undefined || limit === 'unlimited' ? undefined : BigInt(limit),
    pinned: BigInt(pinned ?? 0) * 1024n,
  }
}

/** Where there is no /proc the limit is not known, and the kernel has the last word as always. */
export function readMemlock(): Memlock {
  try {
    return parseMemlock(readFileSync('/proc/self/limits', 'latin1'), readFileSync('/proc/self/status', 'latin1'))
  } catch {
    return { limit: undefined, pinned: 0n }
  }
}

/** Entries an IOTLB of vhost-vdpa may have; undefined while the module is not loaded. */
export function readIotlbEntryLimit(): number | undefined {
  try {
    const text = readFileSync('/sys/module/vhost_vdpa/parameters/max_iotlb_entries', 'latin1')
    return /^\d+$/.test(text.trim()) ? Number(text) : undefined
  } catch {
    return undefined
  }
}
