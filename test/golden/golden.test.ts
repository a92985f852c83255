// The golden traces: what Linux answered, the simulator answers under that kernel's profile; and the programs still ask what they asked then.

import { describe, expect, test } from '@jest/globals'
import { printCall } from '../../lib/backend/print-event.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { replay } from '../../lib/backend/replay.js'
import type { Trace } from '../../lib/backend/trace.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { LAB_MEMLOCK, otherParents, parents, type Parent } from './parents.js'
import { goldenNames, goldenPrograms } from './programs.js'
import { readGolden, recordedNames, type GoldenLaw } from './read.js'

function simulatorFor(trace: Trace, profile: GoldenLaw = 'linux-6.12', parent: Parent = 'default'): Simulator {
  const path = trace.about['path'] ?? ''
  const simulator = new Simulator({ profile, scheduler: 'manual', memlock: LAB_MEMLOCK })
  const isNetwork = trace.about['device'] === 'vdpa_sim_net'
  const capabilities = parents[parent]
  simulator.add(
    isNetwork ? networkDevice({ path, mac: '00:11:22:33:44:55', capabilities }) : blockDevice({ path, capabilities }),
  )
  return simulator
}

test('each program was recorded on each device, and nothing else was', () => {
  expect(recordedNames().sort()).toEqual(goldenNames().sort())
})

test('what Linux 7 answers otherwise was recorded of the same programs', () => {
  expect(recordedNames('linux-7')).not.toEqual([])
  expect(goldenNames()).toEqual(expect.arrayContaining(recordedNames('linux-7')))
})

test.each(goldenNames())('%s is answered as by Linux 7 under its profile', async (name) => {
  const trace = readGolden(name, 'linux-7')
  const report = await replay(trace, simulatorFor(trace, 'linux-7'))
  expect(report.calls).toBe(trace.events.length)
})

describe.each(otherParents)('vdpa_sim with %s', (parent) => {
  test('was recorded, where it answers otherwise', () => {
    expect(recordedNames('linux-6.12', parent)).not.toEqual([])
    expect(goldenNames()).toEqual(expect.arrayContaining(recordedNames('linux-6.12', parent)))
  })

  test.each(goldenNames())('%s is answered as by the kernel', async (name) => {
    const trace = readGolden(name, 'linux-6.12', parent)
    const report = await replay(trace, simulatorFor(trace, 'linux-6.12', parent))
    expect(report.calls).toBe(trace.events.length)
  })
})

describe.each(goldenNames())('%s', (name) => {
  test('is answered by the simulator as it was by the kernel', async () => {
    const trace = readGolden(name)
    const report = await replay(trace, simulatorFor(trace))
    expect(report.calls).toBe(trace.events.length)
  })

  test('is what its program asks today', async () => {
    const trace = readGolden(name)
    const backend = new RecordingBackend(simulatorFor(trace))
    const program = goldenPrograms[trace.about['program'] ?? '']
    if (program === undefined) throw new Error(`there is no program ${trace.about['program']}`)
    await program(backend, trace.about['path'] ?? '')
    expect(backend.trace.events.map(printCall)).toEqual(trace.events.map(printCall))
    const asked = ({ output: _output, outcome: _outcome, ...call }: (typeof trace.events)[number]) => call
    expect(backend.trace.events.map(asked)).toEqual(trace.events.map(asked))
  })
})
