// The golden traces as files: which there are, and what is in them.

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseTrace, type Trace } from '../../lib/backend/trace.js'

// Compiled tests run from build-lab/, the traces stay here; both are run from the checkout.
const folder = join(process.cwd(), 'test', 'golden')

/** The names of the traces that were recorded. */
export function recordedNames(): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.jsonl'))
    .map((name) => name.slice(0, -'.jsonl'.length))
}

export function readGolden(name: string): Trace {
  return parseTrace(readFileSync(join(folder, `${name}.jsonl`), 'utf8'))
}
