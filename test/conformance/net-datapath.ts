// The data path of network devices, as one suite for every backend, by interrupts and never by polling the ring: frames that come back, frames over a wire,
// a link that goes down, a suspend in the middle of traffic.

import { afterEach, beforeEach, describe, expect, test } from '@jest/globals'
import type { Backend } from '../../lib/backend/backend.js'
import { NetControlQueue } from '../../lib/control/net-control-queue.js'
import type { NotifyBy } from '../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../lib/device/vdpa-device.js'
import { NetDriver, type NetDriverOptions } from '../../lib/drivers/net-driver.js'
import type { NetFeature } from '../../lib/index.js'
import { openDevice } from '../../lib/open.js'
import { frameNumber, numberedFrame, udpFrame, udpPayload } from './net-frames.js'
import { until } from '../until.js'

/** The other end of a device's wire. */
export interface Wire {
  /** Where the other end listens. */
  readonly ip: string
  readonly port: number
  /** Sends a datagram to whoever is on the wire. */
  send(payload: Uint8Array): void
  /** The datagrams that arrived at the other end. */
  readonly arrived: readonly Uint8Array[]
  /** Every frame that was on the wire, where it is recorded. */
  readonly captured?: () => readonly Uint8Array[]
  /** Pulls the plug, or puts it in again. */
  setLink(isUp: boolean): Promise<void>
  close(): void
}

/** Where the suite runs. */
export interface DatapathTarget {
  readonly name: string
  readonly backend: () => Backend
  readonly path: () => string
  /** Negotiated besides MAC, and where it is offered. */
  readonly features?: readonly NetFeature[]
  readonly optional?: readonly NetFeature[]
  readonly notifyBy?: NotifyBy
  readonly pairs?: number
  /** `'loop'`: what is sent comes back. Otherwise the other end. */
  readonly far: 'loop' | ((backend: Backend) => Promise<Wire>)
  /** Whether the device stops at suspend(). */
  readonly canSuspend: boolean
}

const patience = () => AbortSignal.timeout(120_000)

/** Defines the tests that fit the target. */
export function describeNetDatapath(target: DatapathTarget): void {
  describe(`the data path of ${target.name}`, () => {
    const scene = new DatapathScene(target)
    beforeEach(() => scene.open())
    afterEach(() => scene.close())
    if (target.far === 'loop') defineLoopTests(scene)
    else {
      defineWireTests(scene)
      definePairTests(scene)
      test('the link goes down and up again, and the program is told by an interrupt', () => linkGoesDownAndUp(scene))
    }
    const reason = target.canSuspend ? '' : ' (skipped: the device has no VHOST_BACKEND_F_SUSPEND)'
    const declare = target.canSuspend ? test : test.skip
    declare(`suspended in the middle of traffic and restored, no frame is lost or doubled${reason}`, () =>
      survivesRestore(scene),
    )
  })
}

/** One open device. */
class DatapathScene {
  readonly target: DatapathTarget
  #device: VdpaDevice<'net'> | undefined
  #wire: Wire | undefined

  constructor(target: DatapathTarget) {
    this.target = target
  }

  get device(): VdpaDevice<'net'> {
    if (this.#device === undefined) throw new Error('no device is open')
    return this.#device
  }

  get wire(): Wire {
    if (this.#wire === undefined) throw new Error(`${this.target.name} has no other end`)
    return this.#wire
  }

  /** The device's own address. */
  get mac(): string {
    return this.device.config.net().mac
  }

  async open(): Promise<void> {
    const backend = this.target.backend()
    if (typeof this.target.far !== 'string') this.#wire = await this.target.far(backend)
    this.#device = await openDevice(this.target.path(), { backend, expect: 'net' })
    await this.negotiate()
  }

  async negotiate(): Promise<void> {
    const { features = [], optional = [] } = this.target
    await this.device.negotiate(['VIRTIO_NET_F_MAC', ...features], { optional })
  }

  async drive(options: NetDriverOptions = {}): Promise<NetDriver> {
    const { notifyBy, pairs } = this.target
    return NetDriver.start(this.device, {
      ...(notifyBy === undefined ? {} : { notifyBy }),
      ...(pairs === undefined || options.restore !== undefined ? {} : { pairs }),
      ...options,
    })
  }

  async start(options: NetDriverOptions = {}): Promise<NetDriver> {
    const driver = await this.drive(options)
    await this.device.start()
    driver.kickReceive()
    return driver
  }

  async close(): Promise<void> {
    await this.#device?.close()
    this.#wire?.close()
    this.#device = this.#wire = undefined
  }
}

/** Sends a frame as soon as there is room for it. */
async function sendWhenRoom(driver: NetDriver, frame: Uint8Array): Promise<void> {
  while (!driver.send(frame)) await driver.room({ signal: patience() })
}

/** Collects the numbers of frames until there are `count`. */
function collect(driver: NetDriver, count: number): { numbers: number[]; done: Promise<void> } {
  const numbers: number[] = []
  const done = new Promise<void>((resolve, reject) => {
    const give = (outcome: () => void) => {
      clearTimeout(timer)
      stop?.()
      outcome()
    }
    const timer = setTimeout(() => give(() => reject(new Error(`${numbers.length} of ${count} frames came`))), 120_000)
    const stop: (() => void) | undefined = driver.onFrame(
      (frame) => {
        const number = frameNumber(frame)
        if (number !== undefined) numbers.push(number)
        if (numbers.length === count) setImmediate(() => give(resolve))
      },
      0,
      (failure) => give(() => reject(failure)),
    )
  })
  return { numbers, done }
}

/** For comparing: jest compares the bytes of arrays one by one, and slowly. */
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const range = (count: number) => Array.from({ length: count }, (_, number) => number)

function defineLoopTests(scene: DatapathScene): void {
  const strange = '02:11:22:33:44:99'

  test('frames come back whole, in order, as interrupts tell of them', async () => {
    const driver = await scene.start()
    const addresses = { from: strange, to: scene.mac }
    for (let number = 0; number < 300; number++) {
      const frame = numberedFrame(addresses, number, 60 + ((number * 37) % 1455))
      await sendWhenRoom(driver, frame)
      expect(hex(await driver.nextFrame({ signal: patience() }))).toBe(hex(frame))
    }
    expect(driver.counters).toMatchObject({ sentFrames: 300, receivedFrames: 300, droppedFrames: 0, invalidFrames: 0 })
  })

  test('frames to another address do not come back, those to everybody do', async () => {
    const driver = await scene.start()
    const own = { from: strange, to: scene.mac }
    const { numbers, done } = collect(driver, 100)
    for (let number = 0; number < 100; number += 2) {
      await sendWhenRoom(driver, numberedFrame(own, number))
      await sendWhenRoom(driver, numberedFrame({ from: strange, to: strange }, 1_000_000 + number))
      await sendWhenRoom(driver, numberedFrame({ from: strange, to: 'ff:ff:ff:ff:ff:ff' }, number + 1))
    }
    await done
    expect(numbers).toEqual(range(100))
  })

  test('batches come back, and nothing is lost while there are buffers', async () => {
    const size = 128
    const driver = await scene.start({ size })
    const addresses = { from: strange, to: scene.mac }
    let next = 0
    for (let batch = 0; batch < 30; batch++) {
      const { numbers, done } = collect(driver, size)
      const frames = range(size).map((number) => numberedFrame(addresses, next + number))
      for (let sent = 0; sent < size; sent += driver.sendBatch(frames.slice(sent)))
        if (sent > 0) await driver.room({ signal: patience() })
      await done
      expect(numbers).toEqual(range(size).map((number) => next + number))
      next += size
      await driver.room({ signal: patience() })
    }
  })
}

/** A datagram's payload: its number, and a length of its own. */
function numberedPayload(number: number): Uint8Array {
  const payload = new Uint8Array(20 + ((number * 53) % 1400)).fill(number & 0xff)
  new DataView(payload.buffer).setUint32(0, number)
  return payload
}

function datagram(scene: DatapathScene, number: number): Uint8Array {
  const { ip, port } = scene.wire
  const own = ip.replace(/\d+$/, '2')
  const macs = { from: scene.mac, to: 'ff:ff:ff:ff:ff:ff' }
  return udpFrame(macs, { from: own, to: ip }, port, numberedPayload(number))
}

function defineWireTests(scene: DatapathScene): void {
  test('frames leave the device whole and in order', async () => {
    const { wire } = scene
    const driver = await scene.start()
    const before = wire.captured?.().length ?? 0
    const count = 400
    for (let number = 0; number < count; number++) {
      await sendWhenRoom(driver, datagram(scene, number))
      // A socket loses what it has no room for, and a hub has none at all.
      if (number % 16 === 15) await until(() => wire.arrived.length > number)
    }
    await until(() => wire.arrived.length >= count)
    expect(wire.arrived.map(hex)).toEqual(range(count).map((number) => hex(numberedPayload(number))))
    const { captured } = wire
    if (captured === undefined) return
    const sent = range(count).map((number) => hex(datagram(scene, number)))
    const seen = () =>
      captured()
        .slice(before)
        .filter((frame) => udpPayload(frame, wire.port) !== undefined)
    await until(() => seen().length >= count)
    expect(seen().map(hex)).toEqual(sent)
  })

  test('frames that the other end sends arrive whole and in order, told of by interrupts', async () => {
    const { wire } = scene
    const driver = await scene.start()
    for (let number = 0; number < 100; number++) {
      wire.send(numberedPayload(number))
      let payload: Uint8Array | undefined
      while (payload === undefined) payload = udpPayload(await nextOfAny(driver), wire.port)
      expect(hex(payload)).toBe(hex(numberedPayload(number)))
    }
  })

  test('frames go both ways at once', async () => {
    const { wire } = scene
    const driver = await scene.start()
    const came: number[] = []
    const stops = range(driver.pairs).map((pair) =>
      driver.onFrame((frame) => {
        const payload = udpPayload(frame, wire.port)
        if (payload !== undefined) came.push(new DataView(payload.buffer).getUint32(0))
      }, pair),
    )
    for (let number = 0; number < 200; number++) {
      wire.send(numberedPayload(number))
      await sendWhenRoom(driver, datagram(scene, number))
      if (number % 16 === 15) await until(() => came.length > number && wire.arrived.length > number)
    }
    await until(() => came.length >= 200 && wire.arrived.length >= 200)
    for (const stop of stops) stop()
    expect(came.toSorted((a, b) => a - b)).toEqual(range(200))
    expect(driver.counters).toMatchObject({ sentFrames: 200, droppedFrames: 0, invalidFrames: 0 })
  })
}

/** The next frame of whichever pair. */
async function nextOfAny(driver: NetDriver): Promise<Uint8Array> {
  const rest = new AbortController()
  const signal = AbortSignal.any([rest.signal, patience()])
  const waits = range(driver.pairs).map((pair) => driver.nextFrame({ pair, signal }))
  try {
    return await Promise.any(waits)
  } finally {
    rest.abort()
    await Promise.allSettled(waits)
  }
}

function definePairTests(scene: DatapathScene): void {
  const { pairs = 1 } = scene.target
  const declare = pairs > 1 ? test : test.skip
  const reason = pairs > 1 ? '' : ' (skipped: the device has one queue pair)'
  declare(`every queue pair sends, once the device was told of all${reason}`, async () => {
    const { wire, device } = scene
    const driver = await scene.drive()
    const control = await NetControlQueue.start(device, device.addressSpace(0))
    await device.start()
    driver.kickReceive()
    await driver.usePairs(control)
    for (let number = 0; number < 40; number++) {
      expect(driver.send(datagram(scene, number), number % pairs)).toBe(true)
      await until(() => wire.arrived.length > number)
    }
    expect(wire.arrived.map((payload) => payload.byteLength)).toEqual(
      range(40).map((n) => numberedPayload(n).byteLength),
    )
    for (let pair = 0; pair < pairs; pair++) expect(await driver.room({ pair, signal: patience() })).toBeGreaterThan(0)
  })
}

async function linkGoesDownAndUp(scene: DatapathScene): Promise<void> {
  const { device, wire } = scene
  const signal = patience()
  const changes = device.configChanges({ signal })
  // Listening begins with the first question.
  let change = changes.next()
  await scene.start()
  const isUp = () => ((device.config.net().status ?? 0) & 1) === 1
  expect(isUp()).toBe(true)
  try {
    await wire.setLink(false)
    while (isUp()) {
      await change
      change = changes.next()
    }
  } finally {
    await wire.setLink(true)
  }
  while (!isUp()) {
    await change
    change = changes.next()
  }
  change.catch(() => undefined)
}

/** Numbered frames go round while the device is suspended, saved, reset and restored, again and again. */
async function survivesRestore(scene: DatapathScene): Promise<void> {
  const { device } = scene
  const addresses = { from: '02:11:22:33:44:99', to: scene.mac }
  const numbers: number[] = []
  const see = (frame: Uint8Array) => {
    const number = frameNumber(frame)
    if (number !== undefined) numbers.push(number)
  }
  let driver = await scene.start({ size: 64 })
  let next = 0
  for (let cycle = 0; cycle < 8; cycle++) {
    const failures: unknown[] = []
    let stop = driver.onFrame(see, 0, (failure) => failures.push(failure))
    // What is under way never exceeds the receive buffers: more would be lost for want of one, by the device's law.
    for (const end = next + 40 + 3 * cycle; next < end; next++) {
      await until(() => next - numbers.length < 48)
      await sendWhenRoom(driver, numberedFrame(addresses, next))
    }
    await device.suspend()
    const before = numbers.length
    stop()
    const snapshot = await driver.save()
    await device.reset()
    await scene.negotiate()
    driver = await scene.drive({ restore: snapshot })
    expect(numbers).toHaveLength(before)
    await device.start()
    stop = driver.onFrame(see, 0, (failure) => failures.push(failure))
    driver.kickReceive()
    await until(() => numbers.length >= next)
    stop()
    expect(failures).toEqual([])
    expect(numbers).toEqual(range(next))
  }
}
