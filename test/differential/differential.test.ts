// The differential tests without a kernel: that the generator is worth having, that the simulator has no memory from one opening to the next, and that a
// planted difference is found and told shortly. The kernel's answers are test/kernel's business, and the golden traces'.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { Backend } from '../../lib/backend/backend.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { replay } from '../../lib/backend/replay.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { compare, type Side } from './compare.js'
import { carryOut, sequences, stepsOf } from './sequence.js'
import { numberFrom, simulated, targets, type TargetName } from './targets.js'
import { clear, furnish } from './world.js'

const seed = numberFrom('VDPA_SEED', Date.now() & 0x7fff_ffff)
/** Where a difference must be found, the same one each time. */
const fixedSeed = 1
const names = Object.keys(targets) as TargetName[]

/** A backend that sends one request's number where another was asked for, as the published bug in a client does. */
function swapping(inner: Backend, asked: RequestName, sent: RequestName): Backend {
  const bind = (object: object, key: string | symbol): unknown => {
    const value: unknown = Reflect.get(object, key, object)
    return typeof value === 'function' ? (value.bind(object) as unknown) : value
  }
  return new Proxy(inner, {
    get: (backend, key) => {
      if (key !== 'open') return bind(backend, key)
      return (path: string) =>
        new Proxy(backend.open(path), {
          get: (handle, member) => {
            if (member !== 'ioctl') return bind(handle, member)
            return (request: number, argument: Uint8Array | number) =>
              handle.ioctl(request === requests[asked].number ? requests[sent].number : request, argument)
          },
        })
    },
  })
}

function planted(name: TargetName, asked: RequestName, sent: RequestName): Side {
  const side = simulated(name, 'linux-6.12')
  return { ...side, name: 'planted', backend: () => swapping(side.backend(), asked, sent) }
}

describe.each(names)('%s', (name) => {
  const { subject } = targets[name]

  test(`300 sequences of at least 20 requests, each twice, have the same answers (seed ${seed})`, () => {
    const side = simulated(name, 'linux-6.12')
    const report = compare({ sides: [side, side], subject, seed, runs: 300 })
    expect(report.found?.text).toBeUndefined()
    expect(report).toMatchObject({ sequences: 300 })
    expect(report.fewestRequests).toBeGreaterThanOrEqual(20)
  })

  test(`40 sequences, recorded, are replayed without a difference (seed ${seed})`, async () => {
    for (const sequence of fc.sample(sequences, { seed, numRuns: 40 })) {
      const side = simulated(name, 'linux-6.12')
      const recording = new RecordingBackend(side.backend())
      const furniture = furnish(recording, side.path)
      carryOut(furniture, stepsOf(sequence, subject), subject)
      clear(furniture)
      const report = await replay(recording.trace, side.backend())
      expect(report.calls).toBe(recording.trace.events.length)
    }
  })

  test.each<readonly [RequestName, RequestName]>([
    ['VHOST_VDPA_SET_GROUP_ASID', 'VHOST_VDPA_GET_VRING_GROUP'],
    ['VHOST_SET_VRING_BASE', 'VHOST_GET_VRING_BASE'],
    ['VHOST_VDPA_GET_GROUP_NUM', 'VHOST_VDPA_GET_VQS_COUNT'],
    ['VHOST_VDPA_SUSPEND', 'VHOST_VDPA_RESUME'],
  ])('%s sent as %s is found, in at most four steps', (asked, sent) => {
    // A disk of one queue and one group answers 1 to both questions.
    const isSame = name === 'vdpa_sim_blk' && asked === 'VHOST_VDPA_GET_GROUP_NUM'
    const sides = [simulated(name, 'linux-6.12'), planted(name, asked, sent)] as const
    const { found } = compare({ sides, subject, seed: fixedSeed, runs: isSame ? 50 : 2000 })
    expect(found === undefined).toBe(isSame)
    expect(found?.steps ?? 0).toBeLessThanOrEqual(4)
    expect(found?.text ?? asked).toContain(asked)
  })
})

/** What the strict law and Linux 6.12 may answer otherwise, by the request that shows it first. */
const explained: Readonly<Partial<Record<RequestName, string>>> = {
  VHOST_VDPA_SET_GROUP_ASID: 'group-asid-after-driver-ok',
  VHOST_VDPA_SET_VRING_ENABLE: 'enable-after-driver-ok',
  VHOST_SET_FEATURES: 'masks-features',
  VHOST_VDPA_GET_CONFIG: 'net-writable-config',
}

/** What the specification's law adds, which no kernel enforces: by the request that shows it first. */
const explainedBySpecification: Readonly<Partial<Record<RequestName, string>>> = {
  ...explained,
  VHOST_VDPA_SET_STATUS: 'takes-drivers-as-they-are',
}

test.each(
  names.flatMap((name) => [[name, 'kernel', explained] as const, [name, 'strict', explainedBySpecification] as const]),
)(`on %s the law of the profile %s differs from 6.12 only by name`, (name, profile, expected) => {
  const sides = [simulated(name, profile), simulated(name, 'linux-6.12')] as const
  for (let offset = 0; offset < 8; offset++) {
    const { found } = compare({ sides, subject: targets[name].subject, seed: fixedSeed + offset, runs: 300 })
    const shown = /^! .*: (VHOST\w+)/m.exec(found?.text ?? '')?.[1] ?? ''
    expect(Object.keys(expected)).toContain(shown)
  }
})
