// The golden traces on the kernel that they speak of: they hold today, on devices that other tests have used before.

import { beforeAll, describe, expect, test } from '@jest/globals'
import { replay } from '../../lib/backend/replay.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { runningParent } from '../golden/parents.js'
import { goldenNames, goldenVariables } from '../golden/programs.js'
import { readGolden } from '../golden/read.js'
import { labProfile, labVariable, restoreMac } from './support.js'

const variables: Readonly<Record<string, string>> = goldenVariables

beforeAll(restoreMac)

const parent = runningParent()

// Where pages are pinned, the entries that a limit counts are the pieces that memory lies in.
const isOfOneBoot = (name: string) => parent === 'use_va=0' && name.endsWith('.ranges')

describe.each([
  [`golden traces (vdpa_sim: ${parent})`, goldenNames().filter((name) => !isOfOneBoot(name)), test],
  [
    'golden traces of one boot (skipped: pieces of memory differ from boot to boot; npm test replays these)',
    goldenNames().filter(isOfOneBoot),
    test.skip,
  ],
])('%s', (_, names, run) => {
  for (const name of names)
    run(name, async () => {
      const trace = readGolden(name, labProfile(), parent)
      const { device = '', path = '' } = trace.about
      const report = await replay(trace, new KernelBackend(), {
        paths: { [path]: labVariable(variables[device] ?? device) },
      })
      expect(report.calls).toBe(trace.events.length)
    })
})
