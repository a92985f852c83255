// The golden traces as files: which there are, and what is in them. Those of a newer kernel are kept where it answers otherwise than 6.12 did.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseTrace, type Trace } from '../../lib/backend/trace.js'

// Compiled tests run from build-lab/, the traces stay here; both are run from the checkout.
const folder = join(process.cwd(), 'test', 'golden')

/** Kernels of which there are traces, by the simulator's profile that speaks of them. */
export type GoldenLaw = 'linux-6.12' | 'linux-7'

const folderOf = (law: GoldenLaw): string => (law === 'linux-6.12' ? folder : join(folder, law))

/** The names of the traces that were recorded. */
export function recordedNames(law: GoldenLaw = 'linux-6.12'): string[] {
  return readdirSync(folderOf(law))
    .filter((name) => name.endsWith('.jsonl'))
    .map((name) => name.slice(0, -'.jsonl'.length))
}

/** What the kernel answered; the answers of 6.12 where the newer one gave the same. */
export function readGolden(name: string, law: GoldenLaw = 'linux-6.12'): Trace {
  const own = join(folderOf(law), `${name}.jsonl`)
  return parseTrace(readFileSync(existsSync(own) ? own : join(folder, `${name}.jsonl`), 'utf8'))
}
