// The program of docs/guides/vhost-net.md as a function, for whichever vhost-net a test has.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { runInThisContext } from 'node:vm'
import ts from 'typescript'
import { packageRoot } from '../../lib/kernel/package-root.js'
import type { openVhostNet } from '../../lib/open-vhost-net.js'

/** What it imports, and where it prints. */
type Program = (open: typeof openVhostNet, console: Pick<Console, 'log' | 'error'>) => Promise<void>

const IMPORT = "import { openVhostNet } from 'vhost-vdpa'\n"

/** Runs it to its end; what it printed, and what it complained of. */
export async function runGuideProgram(open: typeof openVhostNet): Promise<{ lines: string[]; errors: unknown[] }> {
  const text = readFileSync(join(packageRoot(), 'examples/vhost-net.mts'), 'utf8')
  if (!text.startsWith(IMPORT)) throw new Error(`it imports something else: ${text.slice(0, IMPORT.length)}`)
  const body = `(async (openVhostNet: any, console: any) => {${text.slice(IMPORT.length)}})`
  const { outputText } = ts.transpileModule(body, { compilerOptions: { target: ts.ScriptTarget.ES2022 } })
  const program = runInThisContext(outputText) as Program
  const lines: string[] = []
  const errors: unknown[] = []
  await program(open, {
    log: (line: string) => void lines.push(line),
    error: (line: unknown) => void errors.push(line),
  })
  return { lines, errors }
}
