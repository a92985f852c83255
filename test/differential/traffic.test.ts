// Random traffic without a kernel: a device that was used before behaves as a new one, and one that obeys another law is found out.

import { describe, expect, test } from '@jest/globals'
import { Simulator, type Profile } from '../../lib/simulator/index.js'
import { compareTraffic } from './compare-traffic.js'
import { targets, type TargetName } from './targets.js'
import { kinds } from './traffic-kinds.js'
import { Traffic } from './traffic.js'
import { furnish, World } from './world.js'

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

test('a ring that was out of reach for a while goes on where it stood (as vdpa_sim_net of 6.12)', () => {
  const backend = simulator('vdpa_sim_net')
  const traffic = new Traffic(new World(furnish(backend, path)), targets.vdpa_sim_net.subject, kinds.vdpa_sim_net)
  traffic.start()
  const move = (answer: string) => {
    backend.drain()
    return answer
  }
  move(traffic.send(1, [[0x4400, 112, false]]))
  move(traffic.message(3, 0, 0, 16))
  // A kick, so that the device looks for its rings.
  move(traffic.send(0, [[0x8800, 572, true]]))
  move(traffic.message(2, 0, 0, 16))
  move(traffic.send(1, [[0x4400, 1000, false]]))
  // Used index, then entries of id and length; behind each ring its position.
  expect(traffic.observe()).toBe('1 00000100000000003c02 0 0000000001 00000200000000000000000001 0 0100000002  0')
})
