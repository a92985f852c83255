// What the program asks of a move's target while it is being told, and refused calls at the same time: the driver's books go back, and one side runs, exactly one.

import { describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { ShownCall } from '../../lib/backend/call.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { isVdpaError } from '../../lib/base/errors.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import type { NetDriver } from '../../lib/drivers/net-driver.js'
import { prepareMove, type DeviceMove } from '../../lib/move/move.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import { requests } from '../../lib/uapi/vhost.js'
import { A, B, runPair, Traffic } from './support.js'

interface World {
  readonly simulator: Simulator
  readonly backend: FaultyBackend
  readonly source: VdpaDevice
  readonly target: VdpaDevice
  readonly move: DeviceMove
  /** Has the driver that goes on do the rest, and more; says what is not as it must be. */
  readonly goOn: (driver: unknown) => Promise<unknown[]>
  /** Where nobody goes on: every promise settles. */
  readonly settle: () => Promise<unknown>
}

async function network(): Promise<World> {
  const { simulator, backend, source, target, driver, control } = await runPair()
  const traffic = new Traffic()
  traffic.send(driver, 3)
  simulator.drain()
  traffic.send(driver, 2)
  const move = await prepareMove(source, target, { driver, control, timeout: 100 })
  const waiting = driver.nextFrame({ pair: 1 }).catch((failure: unknown) => failure)
  const goOn = async (given: unknown) => {
    const now = given as NetDriver
    now.kickReceive()
    traffic.send(now, 2)
    await traffic.settle(now)
    return traffic.seen.join() === traffic.sent.join() ? [] : [[...traffic.seen], traffic.sent]
  }
  return { simulator, backend, source, target, move, goOn, settle: () => waiting }
}

async function disk(): Promise<World> {
  const simulator = new Simulator()
  for (const path of [A, B]) simulator.add(blockDevice({ path, capacity: 64, queues: 2 }))
  const backend = new FaultyBackend(simulator)
  const source = await openDevice(A, { backend, expect: 'block' })
  const target = await openDevice(B, { backend, expect: 'block' })
  await source.negotiate(['VIRTIO_BLK_F_MQ'])
  const driver = await BlockDriver.start(source, { queues: 2, size: 16, slots: 2 })
  await source.start()
  const move = await prepareMove(source, target, { driver })
  // More than there is room for: some wait.
  const sent = Array.from({ length: 8 }, (_, at) => driver.write(at, new Uint8Array(512).fill(at + 1)))
  const settle = () => Promise.allSettled(sent)
  const goOn = async (given: unknown) => {
    const failed = (await settle()).filter(({ status }) => status === 'rejected')
    await (given as BlockDriver).write(9, new Uint8Array(512).fill(9))
    return failed
  }
  return { simulator, backend, source, target, move, goOn, settle }
}

const worlds = { network, disk }
const verbs: Readonly<Record<string, (world: World) => Promise<unknown>>> = {
  'target.close()': ({ target }) => target.close(),
  'target.reset()': ({ target }) => target.reset(),
  'target.start()': ({ target }) => target.start(),
  'target.suspend()': ({ target }) => target.suspend(),
  'target.close() twice': ({ target }) => Promise.all([target.close(), target.close()]),
  'abandon()': ({ move }) => move.abandon(),
}

interface Play {
  readonly make: () => Promise<World>
  readonly verb: string
  /** Before which call of the arrival the verb comes, and how many turns later. */
  readonly at: number
  readonly turns: number
  /** Which call is refused; none where there are fewer. */
  readonly nth: number
}

/** How many calls the arrival made, and what is not as it must be. */
async function play({ make, verb, at, turns, nth }: Play): Promise<{ calls: number; strange: unknown[] }> {
  const world = await make()
  const { simulator, backend, source, target, move, goOn, settle } = world
  let calls = 0
  let isResetRefused = false
  let asked: Promise<unknown> = Promise.resolve()
  const later = async () => {
    for (let turn = 0; turn < turns; turn++) await Promise.resolve()
    await verbs[verb]?.(world)
  }
  const fault = backend.fail({
    with: 'EIO',
    when: (call) => {
      const isOfTarget = ('path' in call && call.path === B) || (call.op === 'eventfd' && target.state !== 'closed')
      if (!isOfTarget || call.op === 'close') return false
      if (++calls === at) asked = Promise.allSettled([later()])
      if (calls === nth) isResetRefused = isReset(call)
      return calls === nth
    },
  })
  const strange: unknown[] = []
  const result = await move.finish().catch((failure: unknown) => {
    if (!isOurs(failure)) strange.push(failure)
    return undefined
  })
  fault.close()
  await asked
  // What the program asked of it may have ended the target that runs.
  const isEndedByProgram = result?.isMoved === true && target.state !== 'running'
  const running = [source, target].filter(({ state }) => state === 'running').map(({ path }) => path)
  const wanted = result === undefined || isEndedByProgram ? [] : [result.device.path]
  if (running.join() !== wanted.join()) strange.push({ running, wanted, failure: result?.failure })
  // Where a target that is to be left does not even take its reset, nobody can tell what it still does.
  if (result === undefined && !isResetRefused) strange.push('nobody runs')
  if (result !== undefined && !isEndedByProgram) strange.push(...(await goOn(result.driver)))
  for (const one of [source, target]) await one.close()
  await settle()
  if (simulator.descriptors.length > 0) strange.push(simulator.descriptors)
  return { calls, strange }
}

function isReset(call: ShownCall): boolean {
  const isStatus = call.op === 'ioctl' && call.request === requests.VHOST_VDPA_SET_STATUS.number
  return isStatus && typeof call.argument === 'object' && call.argument[0] === 0
}

function isOurs(failure: unknown): boolean {
  const errors = (failure as Partial<AggregateError> | undefined)?.errors as unknown
  return Array.isArray(errors) ? errors.every(isOurs) : isVdpaError(failure)
}

describe.each(Object.entries(worlds))('%s', (_name, make) => {
  test.each(['target.close()', 'target.reset()'])(
    'each call of the arrival refused, and %s at that moment',
    async (verb) => {
      let nth = 1
      for (; nth < 200; nth++) {
        const { calls, strange } = await play({ make, verb, at: nth, turns: nth % 4, nth })
        expect({ nth, strange }).toEqual({ nth, strange: [] })
        if (calls < nth) break
      }
      expect(nth).toBeGreaterThan(20)
      expect(nth).toBeLessThan(200)
    },
  )

  test('any call of the arrival refused, and any verb in any turn', async () => {
    const given = fc.record({
      verb: fc.constantFrom(...Object.keys(verbs)),
      at: fc.integer({ min: 1, max: 80 }),
      turns: fc.integer({ min: 0, max: 40 }),
      nth: fc.integer({ min: 1, max: 80 }),
    })
    const property = fc.asyncProperty(given, async (one) => {
      expect((await play({ make, ...one })).strange).toEqual([])
    })
    await fc.assert(property, { numRuns: 60 })
  })
})
