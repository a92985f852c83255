// Random traffic without a kernel: a device that was used before behaves as a new one, and one that obeys another law is found out.

import { describe, expect, test } from '@jest/globals'
import { Simulator, type Profile } from '../../lib/simulator/index.js'
import { compareTraffic } from './compare-traffic.js'
import { targets, type TargetName } from './targets.js'
import { kinds } from './traffic-kinds.js'

const path = '/dev/vhost-vdpa-0'

function simulator(name: TargetName, profile: Profile = 'linux-6.12'): Simulator {
  const made = new Simulator({ profile, scheduler: 'manual' })
  made.add(targets[name].make(path))
  return made
}

describe.each(Object.keys(targets) as TargetName[])('%s', (name) => {
  const { subject } = targets[name]
  const compareWith = (backend: Simulator) =>
    compareTraffic({
      subject,
      kind: kinds[name],
      simulator: () => ({ backend: simulator(name), path }),
      other: {
        backend,
        path,
        settle: (observe) => {
          backend.drain()
          return Promise.resolve(observe())
        },
      },
      seed: 1,
      runs: 60,
    })

  test('60 sequences on a device that is kept are seen as on new ones', async () => {
    const report = await compareWith(simulator(name))
    expect(report.found).toBeUndefined()
    expect(report.sequences).toBe(60)
    expect(report.moves).toBeGreaterThanOrEqual(60 * 20)
  })

  test('a device of another law is found out', async () => {
    const { found } = await compareWith(simulator(name, 'strict'))
    expect(found).toMatch(/^! (simulator|memory)/m)
  })
})
