// The golden traces: what Linux 6.12 answered, the simulator answers under that kernel's profile; and the programs still ask what they asked then.

import { describe, expect, test } from '@jest/globals'
import { printCall } from '../../lib/backend/print-event.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { replay } from '../../lib/backend/replay.js'
import type { Trace } from '../../lib/backend/trace.js'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator/index.js'
import { goldenNames, goldenPrograms } from './programs.js'
import { readGolden, recordedNames } from './read.js'

function simulatorFor(trace: Trace): Simulator {
  const path = trace.about['path'] ?? ''
  const simulator = new Simulator({ profile: 'linux-6.12', scheduler: 'manual' })
  const isNetwork = trace.about['device'] === 'vdpa_sim_net'
  simulator.add(isNetwork ? networkDevice({ path, mac: '00:11:22:33:44:55' }) : blockDevice({ path }))
  return simulator
}

test('each program was recorded on each device, and nothing else was', () => {
  expect(recordedNames().sort()).toEqual(goldenNames().sort())
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
