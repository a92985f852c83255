// The golden traces on the kernel that they speak of: they hold today, on devices that other tests have used before.

import { beforeAll, expect, test } from '@jest/globals'
import { replay } from '../../lib/backend/replay.js'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { runningParent } from '../golden/parents.js'
import { goldenNames, goldenVariables } from '../golden/programs.js'
import { readGolden } from '../golden/read.js'
import { labProfile, labVariable, restoreMac } from './support.js'

const variables: Readonly<Record<string, string>> = goldenVariables

beforeAll(restoreMac)

const parent = runningParent()

test.each(goldenNames())(`%s (vdpa_sim: ${parent})`, async (name) => {
  const trace = readGolden(name, labProfile(), parent)
  const { device = '', path = '' } = trace.about
  const report = await replay(trace, new KernelBackend(), {
    paths: { [path]: labVariable(variables[device] ?? device) },
  })
  expect(report.calls).toBe(trace.events.length)
})
