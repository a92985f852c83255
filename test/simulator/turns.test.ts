// Verbs that are done at once leave turns to the event loop all the same: timers and sockets of a program that awaits one after the other have their turn.

import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals'
import { BlockDriver } from '../../lib/drivers/block-driver.js'
import { GenericNetlink } from '../../lib/management/generic-netlink.js'
import { openDevice } from '../../lib/open.js'
import { blockDevice, networkDevice } from '../../lib/simulator/index.js'
import { Simulator } from '../../lib/simulator/simulator.js'
import { controlCommands, GENL_ID_CTRL } from '../../lib/uapi/netlink.js'
import { requests } from '../../lib/uapi/vhost.js'
import { steppedClock, turnsDuring } from '../loop-turns.js'
import { Client } from './support.js'

const VERBS = 400
const status = requests.VHOST_VDPA_GET_STATUS.number

describe('the event loop has its turn between', () => {
  let clock: { mockRestore(): void }

  beforeEach(async () => {
    clock = steppedClock()
    // A turn that began by the real clock ends.
    await new Promise<void>((resolve) => void setImmediate(resolve))
  })

  afterEach(() => clock.mockRestore())

  /** Turns that the loop had while so many verbs were awaited. */
  const turnsOf = (verb: () => Promise<unknown>) =>
    turnsDuring(async () => {
      for (let count = 0; count < VERBS; count++) await verb()
    })

  const simulation = () => {
    const simulator = new Simulator()
    simulator.add(networkDevice())
    return simulator
  }

  test('ioctls', async () => {
    const { handle } = new Client(simulation())
    const argument = new Uint8Array(1)
    expect(await turnsOf(() => handle.ioctlAsync(status, argument))).toBeGreaterThanOrEqual(5)
    await handle.close()
  })

  test('ioctls that are refused', async () => {
    const { handle } = new Client(simulation())
    const refused = () => handle.ioctlAsync(0xaf77, 0).catch(() => undefined)
    expect(await turnsOf(refused)).toBeGreaterThanOrEqual(5)
    await handle.close()
  })

  test('ioctls asked for all at once', async () => {
    const { handle } = new Client(simulation())
    const order: number[] = []
    const ask = (_: unknown, index: number) =>
      handle.ioctlAsync(status, new Uint8Array(1)).then(() => order.push(index))
    const turns = await turnsDuring(() => Promise.all(Array.from({ length: VERBS }, ask)))
    expect(turns).toBeGreaterThanOrEqual(5)
    expect(order).toEqual(Array.from({ length: VERBS }, (_, index) => index))
    await handle.close()
  })

  test('openings and closings', async () => {
    const simulator = simulation()
    const turns = await turnsOf(async () => (await simulator.openAsync('/dev/vhost-vdpa-0')).close())
    expect(turns).toBeGreaterThanOrEqual(5)
    expect(simulator.descriptors).toEqual([])
  })

  test('openings that are refused', async () => {
    const simulator = simulation()
    const refused = () => simulator.openAsync('/dev/vhost-vdpa-7').catch(() => undefined)
    expect(await turnsOf(refused)).toBeGreaterThanOrEqual(5)
  })

  test('writes of nothing', async () => {
    const { handle } = new Client(simulation())
    expect(await turnsOf(() => handle.writeEachAsync(new Uint8Array(0), 72))).toBeGreaterThanOrEqual(5)
    await handle.close()
  })

  test('questions to a family', async () => {
    const netlink = GenericNetlink.open(simulation())
    const question = {
      family: GENL_ID_CTRL,
      command: controlCommands.CTRL_CMD_GETFAMILY,
      attributes: [],
      name: 'CTRL_CMD_GETFAMILY',
      isDump: true,
    }
    const ask = () => netlink.ask(question).catch(() => undefined)
    expect(await turnsOf(ask)).toBeGreaterThanOrEqual(5)
    await netlink.close()
  })

  test('sockets that are opened and closed', async () => {
    const simulator = simulation()
    expect(await turnsOf(() => simulator.netlink(16).close())).toBeGreaterThanOrEqual(5)
  })

  test('requests to a disk that answers each in microtasks', async () => {
    const simulator = new Simulator()
    simulator.add(blockDevice({ capacity: 8 }))
    await using device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator, expect: 'block' })
    await device.negotiate([])
    await using disk = await BlockDriver.start(device)
    await device.start()
    expect(await turnsOf(() => disk.read(0, 1))).toBeGreaterThanOrEqual(5)
  })

  test('kicks that a listener answers with kicks', async () => {
    const simulator = new Simulator()
    const [kick, call] = [simulator.eventfd(), simulator.eventfd()]
    let count = 0
    const done = new Promise<void>((resolve) => {
      kick.onSignal(() => call.signal())
      call.onSignal(() => (++count < VERBS ? void Promise.resolve().then(() => kick.signal()) : resolve()))
    })
    const turns = await turnsDuring(() => {
      kick.signal()
      return done
    })
    expect(turns).toBeGreaterThanOrEqual(5)
    for (const eventfd of [kick, call]) eventfd.close()
  })

  test('looks at files, and writes to them', async () => {
    const { files } = simulation().management
    expect(await turnsOf(() => files.list('/sys/bus/vdpa/devices'))).toBeGreaterThanOrEqual(5)
    expect(await turnsOf(() => files.isAllowed('/nothing'))).toBeGreaterThanOrEqual(5)
    const write = () => files.write('/sys/bus/vdpa/drivers_probe', 'vdpa0')
    expect(await turnsOf(write)).toBeGreaterThanOrEqual(5)
  })
})

test('what was asked of a handle is done at the call, however old the turn is', async () => {
  let now = performance.now()
  const clock = jest.spyOn(performance, 'now').mockImplementation(() => (now += 100))
  try {
    const simulator = new Simulator()
    const path = simulator.add(networkDevice())
    const { handle } = new Client(simulator)
    const argument = new Uint8Array([1])
    const acknowledged = handle.ioctlAsync(requests.VHOST_VDPA_SET_STATUS.number, argument)
    const closed = handle.close()
    expect(simulator.dump(path).status).toEqual([])
    expect(simulator.descriptors).toEqual([])
    await expect(acknowledged).resolves.toBe(0)
    await closed
  } finally {
    clock.mockRestore()
  }
})
