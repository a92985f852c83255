// How much memory this process may pin, and how much it has pinned.

import { readFileSync } from 'node:fs'

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
