// A device that breaks down under a guest whose data queues are shadowed: the shadows go on by their books, and the guest sees nothing of it.

import { afterEach, describe, expect, test } from '@jest/globals'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import type { DeviceCapabilities } from '../../lib/models/device-shape.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { DirtyLog } from '../../lib/shadow/dirty-log.js'
import { ShadowQueue } from '../../lib/shadow/shadow-queue.js'
import { until } from '../until.js'
import { kinds, makeNetWorld, path, sendFrames, settle, turn, upTo, type NetWorld } from '../shadow/guest.js'

const code = (name: string) => expect.objectContaining({ code: name })
const opened: { device: VdpaDevice; guest: NetWorld['guest'] }[] = []

async function run(...wish: Parameters<typeof makeNetWorld>): Promise<NetWorld> {
  const world = await makeNetWorld(...wish)
  const { device, guest, shadows } = world
  opened.push(world)
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  return world
}

afterEach(async () => {
  for (const { device, guest } of opened.splice(0)) {
    await device.close()
    guest.close()
  }
})

/** Breaks the device down with frames before it and behind it. */
async function breakDown({ simulator, guest }: NetWorld): Promise<void> {
  for (let sent = 0; sent < 7; sent++) guest.send()
  await turn()
  simulator.faults.needsReset(path)
  for (let sent = 0; sent < 7; sent++) guest.send()
}

const devices: readonly (readonly [string, DeviceCapabilities])[] = [
  ['takes chains one by one', {}],
  ['takes chains ahead', { takesAhead: 8 }],
  ['says what it has answered', { takesAhead: 8, vringState: 'used index' }],
  ['does not say where rings stand', { takesAhead: 8, vringState: 'none' }],
  ['cannot be suspended', { takesAhead: 8, suspend: false }],
]

describe.each(devices)('a device that %s', (_, capabilities) => {
  test.each(kinds)('loses and doubles no frame of the guest: %s', async (__, kind) => {
    const world = await run(kind, { capabilities })
    const { device, guest, shadows, broken } = world
    for (let round = 0; round < 3; round++) {
      await sendFrames(guest, 40)
      await breakDown(world)
      const { lost, queues } = await recoverDevice(device)
      expect([lost, queues]).toEqual([[], []])
    }
    await sendFrames(guest, 40)
    await settle(guest)
    expect(guest.received).toEqual(upTo(guest.sent))
    expect(shadows.map(({ isShadowing, failure }) => [isShadowing, failure])).toEqual([
      [true, undefined],
      [true, undefined],
    ])
    expect(broken).toEqual([])
  })
})

test.each(kinds)('a device that answered out of order is given the rest only: %s', async (_, kind) => {
  if (kind.includes('VIRTIO_F_IN_ORDER')) kind = kind.filter((name) => name !== 'VIRTIO_F_IN_ORDER')
  const world = await run(kind, { capabilities: { takesAhead: 8, answersNewestFirst: true } })
  const { device, guest } = world
  for (let round = 0; round < 4; round++) {
    await sendFrames(guest, 21)
    await breakDown(world)
    expect((await recoverDevice(device)).lost).toEqual([])
  }
  await settle(guest)
  expect([...guest.received].sort((a, b) => a - b)).toEqual(upTo(guest.sent))
})

test('every page that was written is in the log, also those of chains that were in flight', async () => {
  let log: DirtyLog | undefined
  const world = await run([], { capabilities: { takesAhead: 8 } }, (it) => ({
    log: (log ??= new DirtyLog(it.guest.memory)),
  }))
  const { device, guest } = world
  const marked = new Set<number>()
  const fetch = () => {
    for (const { address, bitmap } of log?.take() ?? [])
      for (const [at, byte] of bitmap.entries())
        for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) marked.add(Number(address) / 4096 + 8 * at + bit)
  }
  for (let round = 0; round < 3; round++) {
    await sendFrames(guest, 20)
    await breakDown(world)
    fetch()
    await recoverDevice(device)
    await settle(guest)
    fetch()
    for (const { address, length } of guest.written.splice(0))
      for (let page = Math.floor(address / 4096); page * 4096 < address + length; page++)
        expect(marked.has(page)).toBe(true)
  }
  expect(guest.received).toEqual(upTo(guest.sent))
})

test('what is bounced goes on to be bounced', async () => {
  const world = await makeNetWorld([], { capabilities: { takesAhead: 8 } }, ({ simulator }) => ({
    bounce: simulator.allocate(64 * 4096),
  }))
  opened.push(world)
  const { device, guest, shadows } = world
  await ShadowQueue.beginAll(shadows)
  await device.start()
  await sendFrames(guest, 40)
  await breakDown(world)
  await recoverDevice(device)
  await sendFrames(guest, 40)
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
  await device.close()
  for (const shadow of shadows) await shadow.close()
})

test('the rings of a group of descriptors of their own come back to their own address space', async () => {
  const groups = { groups: [0, 0, 1], descriptorGroups: [2, 2, 1], addressSpaces: 3 }
  const world = await makeNetWorld([], groups, ({ device }) => ({ descriptorSpace: device.addressSpace(2) }))
  opened.push(world)
  const { device, guest, shadows } = world
  device.groups.assign(2, 2)
  await device.addressSpace(0).map(guest.memory)
  await ShadowQueue.beginAll(shadows)
  await device.start()
  const [data, descriptors] = [device.addressSpace(0), device.addressSpace(2)].map((space) => space.mappings)
  await breakDown(world)
  await recoverDevice(device)
  expect([device.addressSpace(0).mappings, device.addressSpace(2).mappings]).toEqual([data, descriptors])
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
})

test('shadows are ended and begun afterwards as before', async () => {
  const world = await run()
  const { device, guest, shadows } = world
  await breakDown(world)
  await recoverDevice(device)
  await ShadowQueue.endAll(shadows)
  await sendFrames(guest, 30)
  await ShadowQueue.beginAll(shadows)
  await breakDown(world)
  const recovering = recoverDevice(device)
  await Promise.all([recovering, ShadowQueue.endAll(shadows)])
  await sendFrames(guest, 30)
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
})

test('closing a shadow meanwhile waits, and is refused by the device that runs', async () => {
  const world = await run()
  const { device, guest, shadows } = world
  await breakDown(world)
  const recovering = recoverDevice(device)
  await turn()
  await expect((shadows[0] as ShadowQueue).close()).rejects.toThrow(code('ERR_VDPA_STATE'))
  await recovering
  await settle(guest)
  expect(guest.received).toEqual(upTo(guest.sent))
})

test('a ring that its guest broke is served no more, which is said; the others go on', async () => {
  const world = await run()
  const { device, guest, shadows, broken, simulator } = world
  guest.bytes(0x8000 + 64 * 16 + 2, 2).fill(0xff)
  guest.kicks[1]?.signal()
  await until(() => broken.length > 0)
  expect(broken).toHaveLength(1)
  simulator.faults.needsReset(path)
  const { lost } = await recoverDevice(device)
  expect(lost).toEqual([expect.stringContaining('queue 1')])
  expect([shadows.map(({ isShadowing }) => isShadowing), device.state]).toEqual([[true, false], 'running'])
})

test('a ring of the shadow that the device broke is begun anew', async () => {
  const world = await run()
  const { device, guest, shadows, broken } = world
  await sendFrames(guest, 30)
  await settle(guest)
  const queue = device.drivenQueues.find(({ index }) => index === 1)
  const used = Number((queue?.vring.addresses?.device ?? 0n) - (queue?.place.iova ?? 0n))
  queue?.place.memory.view(used + 2, 2).fill(0x77)
  guest.send()
  await settle(guest, guest.received.length)
  await turn()
  for (let turns = 0; broken.length === 0 && turns < 100; turns++) await turn()
  expect(broken).toMatchObject([{ code: 'ERR_VDPA_RING_BROKEN' }])
  expect((await recoverDevice(device)).lost).toEqual([])
  await sendFrames(guest, 30)
  await settle(guest)
  expect([...new Set(guest.received)].sort((a, b) => a - b)).toEqual(upTo(guest.sent))
  expect(shadows.map(({ isShadowing, failure }) => [isShadowing, failure])).toEqual([
    [true, undefined],
    [true, undefined],
  ])
})

test('each of its calls refused in turn: the guest is served or the shadows have ended, and nothing is left', async () => {
  let nth = 1
  let recovered = 0
  for (; nth < 300; nth++) {
    let backend: FaultyBackend | undefined
    const world = await makeNetWorld([], {}, undefined, (simulator) => (backend = new FaultyBackend(simulator)))
    const { device, guest, shadows, simulator } = world
    await device.addressSpace(0).map(guest.memory)
    await ShadowQueue.beginAll(shadows)
    await device.start()
    await sendFrames(guest, 10)
    await breakDown(world)
    const fault = backend?.fail({ with: 'EIO', nth, when: ({ op }) => op !== 'close' })
    const result = await recoverDevice(device).catch((failure: unknown) => failure)
    const hits = fault?.hits ?? 0
    fault?.close()
    const isRunning = device.state === 'running'
    for (const { isShadowing } of shadows) expect(isShadowing).toBe(isRunning)
    if (isRunning) {
      if (hits > 0) await recoverDevice(device)
      recovered++
      await settle(guest)
      expect(guest.received).toEqual(upTo(guest.sent))
    } else expect(result).toBeInstanceOf(Error)
    if (device.state === 'lost') await device.reset().catch(() => undefined)
    await device.close()
    guest.close()
    expect(simulator.descriptors).toEqual([])
    if (hits === 0) break
  }
  expect([nth > 20, nth < 300, recovered > 0]).toEqual([true, true, true])
})
