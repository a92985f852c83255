// Real devices bridged to a front end of vhost-user: rings, kicks and interrupts are the device's and the front end's own, so this thread does nothing while they work;
// the control queue goes through the shadow, with its policy.

import { afterEach, describe, expect, it } from '@jest/globals'
import { networkInterfaces } from 'node:os'
import type { AuditEvent } from '../../lib/control/shadow-policy'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser, type BridgeVhostUserOptions } from '../../lib/serve'
import { FrontEndLog, LOG_ALL, pageOf } from '../bridge/logged-guest'
import { openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { FrontEnd, words, type GuestQueue } from '../vhost-user/front-end'
import { describeBridgedGuests } from './bridge-guests'
import { labVariable, restoreMac } from './support'

/** EVENT_IDX, packed rings and IN_ORDER, which this front end's rings are not made for. */
const WITHOUT = (1n << 29n) | (1n << 34n) | (1n << 35n)
/** The protocol's STATUS: without it, rings say when to start. */
const STATUS = 1n << 16n
const HEADER_BYTES = 12
/** Milliseconds for what an emulated machine does in one. */
const PATIENCE = 60_000

type Chain = readonly (readonly [guest: bigint, length: number, isWritable: boolean])[]

/** Gives the device a chain. */
function give(queue: GuestQueue, chain: Chain): void {
  queue.ring.begin()
  for (const part of chain) queue.ring.pushAddress(...part)
  queue.ring.commit(1)
  if (queue.ring.publish()) queue.kick.signal()
}

/** Waits for a chain to come back, and for its interrupt, without giving this thread's event loop a turn. */
function takeAlone({ ring, call }: GuestQueue): number {
  const end = performance.now() + PATIENCE
  let [isBack, isCalled] = [false, false]
  while (!isBack || !isCalled) {
    isBack ||= ring.take() >= 0
    isCalled ||= call.take() > 0
    if (performance.now() > end) throw new Error(isBack ? 'no interrupt came' : 'the chain did not come back')
  }
  return ring.usedLength
}

let before = openDescriptors()
const folders: TemporaryFolder[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) folder[Symbol.dispose]()
})

/** Works with a front end of a device of the lab that is bridged. */
async function bridged(
  variable: string,
  settings: Partial<BridgeVhostUserOptions>,
  work: (front: FrontEnd, bridge: Awaited<ReturnType<typeof bridgeVhostUser>>) => Promise<void>,
): Promise<void> {
  const backend = new KernelBackend()
  before = openDescriptors()
  const folder = new TemporaryFolder()
  folders.push(folder)
  {
    await using device = await openDevice(labVariable(variable), { backend })
    await using bridge = await bridgeVhostUser(device, { socket: folder.file('socket'), ...settings })
    {
      using front = new FrontEnd(backend, bridge.path)
      await front.begin(WITHOUT, STATUS)
      await work(front, bridge)
      expect(bridge.refusals).toEqual([])
    }
  }
  await untilNoneIsOpen(before)
}

/** The address in the configuration space. */
async function macOf(front: FrontEnd): Promise<string> {
  const { payload } = await front.ask('GET_CONFIG', Uint8Array.of(...words(0, 6, 0), ...new Uint8Array(6)))
  return [...payload.subarray(12)].map((byte) => byte.toString(16).padStart(2, '0')).join(':')
}

const bytesOf = (mac: string) => mac.split(':').map((byte) => parseInt(byte, 16))

describe('a disk', () => {
  it.each(['VHOST_VDPA_BLOCK', 'VHOST_VDPA_PCI_BLOCK'])('%s moves sectors by itself', async (variable) => {
    await bridged(variable, {}, async (front) => {
      const queue = front.queue(0)
      // The answer comes when the device is as it was told to be.
      await front.ask('GET_FEATURES')
      const [header, data, status] = [front.room(16), front.room(4096), front.room(1)]
      const request = (type: number, sector: bigint) => {
        header.bytes.set(words(type, 0, sector))
        status.bytes[0] = 0xff
        give(queue, [
          [header.guest, 16, false],
          [data.guest, 4096, type === 0],
          [status.guest, 1, true],
        ])
        takeAlone(queue)
        return status.bytes[0]
      }
      const pattern = Uint8Array.from({ length: 4096 }, (_, at) => (at * 7) & 0xff)
      for (let round = 0; round < 20; round++) {
        data.bytes.set(pattern)
        expect(request(1, BigInt(8 * round))).toBe(0)
        data.bytes.fill(0)
        expect(request(0, BigInt(8 * round))).toBe(0)
        expect(Buffer.compare(data.bytes, pattern)).toBe(0)
      }
    })
  })
})

describe('a disk whose front end logs', () => {
  it('is shadowed as long as that, its ring goes on where it stood, and it moves sectors by itself again', async () => {
    await bridged('VHOST_VDPA_BLOCK', {}, async (front, bridge) => {
      expect(bridge.dirtyLog).toEqual({ isOffered: true })
      const features = (await front.ask('GET_FEATURES')).value & ~WITHOUT
      const log = new FrontEndLog(new KernelBackend())
      const queue = front.queue(0)
      front.align(4096)
      const [header, data, status] = [front.room(16), front.room(8192), front.room(1)]
      const sectors = data.guest + 4096n
      const ask = (sector: bigint) => {
        header.bytes.set(words(0, 0, sector))
        status.bytes[0] = 0xff
        give(queue, [
          [header.guest, 16, false],
          [sectors, 4096, true],
          [status.guest, 1, true],
        ])
      }
      try {
        await log.give(front)
        for (let round = 0; round < 5; round++) {
          expect(await front.acknowledged('SET_FEATURES', words(features & ~LOG_ALL))).toBe(0n)
          expect(bridge.isLogging).toBe(false)
          ask(BigInt(round))
          takeAlone(queue)
          expect([status.bytes[0], log.take()]).toEqual([0, []])
          expect(await front.acknowledged('SET_FEATURES', words(features | LOG_ALL))).toBe(0n)
          expect(bridge.isLogging).toBe(true)
          log.take()
          ask(BigInt(round))
          await queue.take()
          const pages = [queue.usedAt, sectors, status.guest].map(pageOf)
          expect([status.bytes[0], new Set(log.take())]).toEqual([0, new Set(pages)])
        }
        // Ten requests, half of them by way of the shadow.
        expect((await front.ask('GET_VRING_BASE', words(0, 0))).payload).toEqual(words(0, 10))
      } finally {
        log.region.close()
      }
    })
  })
})

describe('a network device', () => {
  /** Queues 0 and 1, and a function that sends a frame and gives back the one that comes. */
  async function wire(front: FrontEnd) {
    const [receive, transmit] = [front.queue(0), front.queue(1)]
    await front.ask('GET_FEATURES')
    const [inbox, outbox] = [front.room(2048), front.room(512)]
    return (frame: Uint8Array) => {
      inbox.bytes.fill(0)
      give(receive, [[inbox.guest, 2048, true]])
      outbox.bytes.fill(0)
      outbox.bytes.set(frame, HEADER_BYTES)
      give(transmit, [[outbox.guest, HEADER_BYTES + frame.length, false]])
      takeAlone(transmit)
      const length = takeAlone(receive)
      return inbox.bytes.slice(HEADER_BYTES, length)
    }
  }

  it('moves frames by itself, and its control queue is the shadow’s', async () => {
    const heard: AuditEvent[] = []
    const settings: Partial<BridgeVhostUserOptions> = {
      policy: ({ name, payload }) =>
        name === 'VIRTIO_NET_CTRL_MAC_ADDR_SET' && payload[5] === 0x66 ? 'deny' : 'allow',
      onAudit: (event) => heard.push(event),
    }
    await bridged('VHOST_VDPA_NET', settings, async (front, bridge) => {
      expect(bridge.isolation).toMatchObject({ isolated: true })
      const control = front.queue(2)
      const exchange = await wire(front)
      const mac = await macOf(front)
      const frame = Uint8Array.of(...bytesOf(mac), ...bytesOf(mac), 0x88, 0xb5, ...new Uint8Array(46).fill(9))
      for (let round = 0; round < 20; round++) expect(Buffer.compare(exchange(frame), frame)).toBe(0)
      const [head, ack] = [front.room(8), front.room(1)]
      const setMac = async (last: number) => {
        head.bytes.set([1, 1, 2, 0, 0, 0, 0, last])
        ack.bytes[0] = 0xff
        give(control, [
          [head.guest, 8, false],
          [ack.guest, 1, true],
        ])
        await control.take()
        return [ack.bytes[0], await macOf(front)]
      }
      expect(await setMac(0x66)).toEqual([1, mac])
      expect(await setMac(0x55)).toEqual([0, '02:00:00:00:00:55'])
      expect(heard.map(({ name, outcome }) => `${name ?? '?'} ${outcome}`)).toEqual([
        'VIRTIO_NET_CTRL_MAC_ADDR_SET denied',
        'VIRTIO_NET_CTRL_MAC_ADDR_SET forwarded',
      ])
    })
    await restoreMac()
  })

  it('behind an IOMMU reaches its network, and guests have no control queue that cannot be alone', async () => {
    const peer = labVariable('LAB_PEER_PCI')
    const ip = networkInterfaces()[peer]?.find(({ family }) => family === 'IPv4')?.address ?? ''
    await bridged('VHOST_VDPA_PCI', {}, async (front, bridge) => {
      expect(bridge.isolation).toMatchObject({ isolated: false })
      const exchange = await wire(front)
      const own = bytesOf(await macOf(front))
      const target = ip.split('.').map(Number)
      const sender = [...target.slice(0, 3), 77]
      const asked = [0, 1, 8, 0, 6, 4, 0, 1, ...own, ...sender, 0, 0, 0, 0, 0, 0, ...target]
      const answer = exchange(Uint8Array.of(255, 255, 255, 255, 255, 255, ...own, 8, 6, ...asked))
      expect([...answer.subarray(0, 6)]).toEqual(own)
      expect([...answer.subarray(20, 22)]).toEqual([0, 2])
      expect([...answer.subarray(28, 32)]).toEqual(target)
    })
  })
})

describeBridgedGuests()
