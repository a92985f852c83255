// A running device moves to another one in the middle of traffic, and goes on where it was when any call of it is refused.

import { afterEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { BlockDriver, type BlockDriverOptions } from '../../lib/drivers/block-driver.js'
import { moveDevice } from '../../lib/move/move.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, Simulator } from '../../lib/simulator/index.js'
import type { FeatureName } from '../drivers/features.js'
import { A, address, B, runPair, Traffic, type Pair, type PairSetup } from './support.js'

const code = (name: string) => expect.objectContaining({ code: name })
const pairs: Pair[] = []

async function run(setup?: PairSetup): Promise<Pair> {
  const pair = await runPair(setup)
  pairs.push(pair)
  return pair
}

afterEach(async () => {
  for (const { source, target } of pairs.splice(0))
    for (const one of [source, target]) await one.close().catch(() => undefined)
})

const rings: Record<string, readonly FeatureName[]> = { split: [], packed: ['VIRTIO_F_RING_PACKED'] }

describe.each(Object.entries(rings))('%s', (_name, features) => {
  test.each([
    ['suspended', {}],
    ['stopped by a reset', { capabilities: { suspend: false, resume: false } }],
  ])('a source that is %s: no frame is lost or doubled', async (_how, shape) => {
    const { source, target, driver, control, models, simulator } = await run({ features, source: shape })
    const traffic = new Traffic()
    traffic.send(driver, 5)
    simulator.drain()
    traffic.send(driver, 4)
    const { isMoved, failure, report, ...now } = await moveDevice(source, target, { driver, control })
    expect([isMoved, failure, now.device]).toEqual([true, undefined, target])
    expect([source.state, target.state, driver.isClosed]).toEqual(['closed', 'running', true])
    const moved = now.driver
    await traffic.settle(moved)
    traffic.send(moved, 5)
    await traffic.settle(moved)
    expect(traffic.seen).toEqual(traffic.sent)
    expect([models[1]?.mac, moved.activePairs]).toEqual([address, 2])
    expect(report.lost.length).toBe('capabilities' in shape ? 1 : 0)
    expect(report.steps.map(({ name }) => name)).toEqual(
      'capabilities' in shape
        ? ['prepare', 'take', 'arrive', 'close']
        : ['prepare', 'suspend', 'take', 'arrive', 'close'],
    )
    expect(report.stoppedMilliseconds).toBeGreaterThan(0)
    await now.control?.setMacAddress('02:00:00:00:00:09')
    expect(models[1]?.mac).toBe('02:00:00:00:00:09')
  })
})

test('to a device whose queues are smaller than the control queue was: that is made anew, as large as it can be', async () => {
  const { source, target, driver, control, models } = await run({ target: { maxQueueSize: 64 } })
  const { isMoved, failure, ...now } = await moveDevice(source, target, { driver, control })
  expect([isMoved, failure]).toEqual([true, undefined])
  expect([target.vring(4).size, models[1]?.mac, now.driver.activePairs]).toEqual([64, address, 2])
  await now.control?.setMacAddress('02:00:00:00:00:09')
  expect(models[1]?.mac).toBe('02:00:00:00:00:09')
})

test('each of its calls refused in turn, one side runs, exactly one, and traffic goes on there', async () => {
  let [nth, moved, stayed, thrown] = [1, 0, 0, 0]
  for (; nth < 300; nth++) {
    const { source, target, driver, control, backend, simulator } = await run()
    const traffic = new Traffic()
    traffic.send(driver, 3)
    simulator.drain()
    traffic.send(driver, 2)
    const fault = backend.fail({ with: 'EIO', nth, when: ({ op }) => op !== 'close' })
    const result = await moveDevice(source, target, { driver, control, timeout: 100 }).catch(() => undefined)
    const hits = fault.hits
    fault.close()
    try {
      const now = result?.driver ?? driver
      const running = [source, target].filter(({ state }) => state === 'running')
      expect(running).toEqual([result?.device ?? source])
      if (result === undefined) thrown++
      else if (result.isMoved) moved++
      else stayed++
      now.kickReceive()
      traffic.send(now, 2)
      await traffic.settle(now)
      expect(traffic.seen).toEqual(traffic.sent)
    } catch (failure) {
      throw new Error(`call ${nth}`, { cause: failure })
    }
    for (const one of pairs.splice(0)) for (const end of [one.source, one.target]) await end.close()
    expect(simulator.descriptors).toEqual([])
    if (hits === 0) break
  }
  expect(nth).toBeLessThan(300)
  expect([moved > 1, stayed > 10, thrown > 5]).toEqual([true, true, true])
}, 240_000)

test('a disk under verified writes: promises settle on the other side', async () => {
  const simulator = new Simulator()
  const bytes = [0, 1].map((at) => blockDevice({ path: `/dev/vhost-vdpa-${at}`, capacity: 256 }))
  for (const one of bytes) simulator.add(one)
  const source = await openDevice('/dev/vhost-vdpa-0', { backend: simulator, expect: 'block' })
  const target = await openDevice('/dev/vhost-vdpa-1', { backend: simulator, expect: 'block' })
  await source.negotiate([])
  const driver = await BlockDriver.start(source, { size: 16 })
  await source.start()
  await source.suspend()
  const writes = [1, 2, 3].map((at) => driver.write(at, new Uint8Array(512).fill(at)))
  await source.resume()
  await source.suspend()
  const late = [4, 5, 6].map((at) => driver.write(at, new Uint8Array(512).fill(at)))
  await source.resume()
  const { driver: moved, isMoved } = await moveDevice(source, target, { driver })
  await Promise.all([...writes, ...late])
  expect(isMoved).toBe(true)
  const disk = moved
  await disk.write(9, new Uint8Array(512).fill(9))
  expect((await disk.read(9, 1))[5]).toBe(9)
  await target.close()
})

/** Two disks of two queues, of which the first runs. */
async function twoDisks(options: BlockDriverOptions = {}) {
  const simulator = new Simulator({ scheduler: 'manual' })
  for (const path of [A, B]) simulator.add(blockDevice({ path, capacity: 64, queues: 2 }))
  const backend = new FaultyBackend(simulator)
  const [source, target] = await Promise.all([A, B].map((path) => openDevice(path, { backend, expect: 'block' })))
  if (source === undefined || target === undefined) throw new Error('no device')
  await source.negotiate(['VIRTIO_BLK_F_MQ'])
  const driver = await BlockDriver.start(source, { queues: 2, size: 16, ...options })
  await source.start()
  return { simulator, backend, source, target, driver }
}

/** Whether work ends, well or not, while the devices of a simulator work. */
async function endsOn(simulator: Simulator, work: Promise<unknown>): Promise<boolean> {
  let isOver = false
  const over = () => (isOver = true)
  work.then(over, over)
  for (let turn = 0; turn < 1000 && !isOver; turn++) {
    simulator.drain()
    await new Promise((resolve) => setImmediate(resolve))
  }
  return isOver
}

test('each call of the target refused in turn, a disk goes on with what was under way, on one side', async () => {
  const outcomes = new Set<boolean | undefined>()
  let nth = 1
  for (; nth < 200; nth++) {
    const { simulator, backend, source, target, driver } = await twoDisks({ slots: 2 })
    // More than there is room for: some wait.
    const sent = Array.from({ length: 8 }, (_, at) => driver.write(at, new Uint8Array(512).fill(at + 1)))
    const written = Promise.all(sent)
    const fault = backend.fail({
      with: 'EIO',
      nth,
      when: (call) => call.op !== 'close' && (call.op === 'eventfd' || ('path' in call && call.path === B)),
    })
    const result = await moveDevice(source, target, { driver }).catch(() => undefined)
    const { hits } = fault
    fault.close()
    outcomes.add(result?.isMoved)
    const running = [source, target].filter(({ state }) => state === 'running').map(({ path }) => path)
    expect({ nth, running }).toEqual({ nth, running: [(result?.device ?? source).path] })
    expect({ nth, isOver: await endsOn(simulator, written) }).toEqual({ nth, isOver: true })
    await written
    for (const one of [source, target]) await one.close()
    expect(simulator.descriptors).toEqual([])
    if (hits === 0) break
  }
  expect(nth).toBeLessThan(200)
  expect(outcomes).toEqual(new Set([true, false, undefined]))
})

test.each([1, 2, 3, 4])('listener %i of the target refused, a disk of two queues goes back whole', async (nth) => {
  const { simulator, backend, source, target, driver } = await twoDisks()
  const written = Promise.all([0, 1, 2, 3].map((at) => driver.write(at, new Uint8Array(512).fill(at))))
  const eventfd = backend.eventfd.bind(backend)
  let listeners = 0
  backend.eventfd = (...given) => {
    const made = eventfd(...given)
    const onSignal = made.onSignal.bind(made)
    return Object.assign(made, {
      onSignal: (listener: () => void) => {
        if (++listeners === nth) throw new Error('no room to listen')
        return onSignal(listener)
      },
    })
  }
  const { isMoved, device } = await moveDevice(source, target, { driver })
  expect([device.state, isMoved]).toEqual(['running', listeners < nth])
  expect(await endsOn(simulator, written)).toBe(true)
  await written
  for (const one of [source, target]) await one.close()
  expect(simulator.descriptors).toEqual([])
})

test('is refused before anything is touched where something would be lost', async () => {
  const { source, target, driver, control } = await run()
  await expect(moveDevice(source, target, { driver })).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(moveDevice(source, target, { control })).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(moveDevice(target, source, {})).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(moveDevice(source, source, { driver, control })).rejects.toThrow(code('ERR_VDPA_STATE'))
  await expect(moveDevice(source, target, null as never)).rejects.toThrow(TypeError)
  expect([source.state, target.state, target.status]).toEqual(['running', 'claimed', 0])
})

describe('from one system to another, whose memory is not the same', () => {
  test('a network driver: its queues are copied, and no frame is lost or doubled', async () => {
    const [here, there] = [await run(), await run()]
    await there.source.close()
    const traffic = new Traffic()
    traffic.send(here.driver, 5)
    here.simulator.drain()
    traffic.send(here.driver, 4)
    const { driver, control } = here
    const first = await moveDevice(here.source, there.target, { driver, control })
    expect([first.isMoved, first.failure]).toEqual([true, undefined])
    const moved = first.driver
    await traffic.settle(moved)
    traffic.send(moved, 5)
    const back = await moveDevice(there.target, here.target, {
      driver: moved,
      ...(first.control !== undefined && { control: first.control }),
    })
    await traffic.settle(back.driver)
    expect(traffic.seen).toEqual(traffic.sent)
    expect(here.models[1]?.mac).toBe(address)
    // What was copied from is freed.
    await here.target.close()
    expect([here.simulator.descriptors, there.simulator.descriptors]).toEqual([[], []])
  })

  test('a disk: requests that were under way are answered there, and where that is refused, here', async () => {
    const simulators = [new Simulator({ scheduler: 'manual' }), new Simulator({ scheduler: 'manual' })]
    for (const one of simulators) one.add(blockDevice({ path: A, capacity: 256 }))
    const [source, target] = await Promise.all(simulators.map((backend) => openDevice(A, { backend, expect: 'block' })))
    if (source === undefined || target === undefined) throw new Error('no device')
    await source.negotiate([])
    const driver = await BlockDriver.start(source, { size: 16 })
    await source.start()
    const sector = (at: number) => new Uint8Array(512).fill(at)
    const drained = async <T>(promise: Promise<T>): Promise<T> => {
      let isSettled = false
      promise.finally(() => (isSettled = true)).catch(() => undefined)
      while (!isSettled) {
        for (const one of simulators) one.drain()
        await new Promise((resolve) => setImmediate(resolve))
      }
      return promise
    }
    const first = [1, 2].map((at) => driver.write(at, sector(at)))
    simulators[1]?.faults.fail({ request: 'VHOST_SET_VRING_ADDR', with: 'EIO', nth: 1 })
    const stayed = await moveDevice(source, target, { driver })
    expect([stayed.isMoved, stayed.device]).toEqual([false, source])
    await drained(Promise.all(first))
    const again = await openDevice(A, { backend: simulators[1] as Simulator, expect: 'block' })
    const second = [3, 4].map((at) => stayed.driver.write(at, sector(at)))
    const moved = await moveDevice(source, again, { driver: stayed.driver })
    expect(moved.isMoved).toBe(true)
    await drained(Promise.all(second))
    const disk = moved.driver
    for (const at of [3, 4]) expect((await drained(disk.read(at, 1)))[9]).toBe(at)
    await again.close()
    for (const one of simulators) expect(one.descriptors).toEqual([])
  })
})
