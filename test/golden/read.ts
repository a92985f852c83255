// The golden traces as files: which there are, and what is in them. Those of a newer kernel are kept where it answers otherwise than 6.12 did.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseTrace, type Trace } from '../../lib/backend/trace.js'
import type { Parent } from './parents.js'

// Compiled tests run from build-lab/, the traces stay here; both are run from the checkout.
const folder = join(process.cwd(), 'test', 'golden')

/** Kernels of which there are traces, by the simulator's profile that speaks of them. */
export type GoldenLaw = 'linux-6.12' | 'linux-7'

/** A folder for what a kernel answers otherwise than 6.12, and one for what vdpa_sim does when it is loaded otherwise. */
const folderOf = (law: GoldenLaw, parent: Parent): string =>
  join(folder, law === 'linux-6.12' ? '' : law, parent === 'default' ? '' : parent)

/** The names of the traces that were recorded. */
export function recordedNames(law: GoldenLaw = 'linux-6.12', parent: Parent = 'default'): string[] {
  return readdirSync(folderOf(law, parent))
    .filter((name) => name.endsWith('.jsonl'))
    .map((name) => name.slice(0, -'.jsonl'.length))
}

/** What the kernel answered; the answers of 6.12, and of its default, where the newer one or the other parent gave the same. */
export function readGolden(name: string, law: GoldenLaw = 'linux-6.12', parent: Parent = 'default'): Trace {
  const own = join(folderOf(law, parent), `${name}.jsonl`)
  return parseTrace(readFileSync(existsSync(own) ? own : join(folder, `${name}.jsonl`), 'utf8'))
}
