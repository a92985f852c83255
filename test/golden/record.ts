// Records the golden traces anew, in the kernel lab: a program, not a suite. It writes into $LAB_OUT and judges nothing.

import { writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { formatTrace } from '../../lib/backend/trace.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { labVariable } from '../kernel/support.js'
import { goldenPrograms, goldenVariables } from './programs.js'

async function main(): Promise<void> {
  const folder = labVariable('LAB_OUT')
  for (const [device, variable] of Object.entries(goldenVariables)) {
    const path = labVariable(variable)
    for (const [program, run] of Object.entries(goldenPrograms)) {
      const backend = new RecordingBackend(new KernelBackend(), { about: { kernel: release(), device, path, program } })
      await run(backend, path)
      writeFileSync(join(folder, `${device}.${program}.jsonl`), formatTrace(backend.trace))
    }
  }
}

main().catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
