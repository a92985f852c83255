// A served network device and its control queue: with a front end that keeps it to itself, and with one that passes it.

import { afterEach, expect, it } from '@jest/globals'
import { bit } from '../../lib/base/bits'
import { networkDevice, serveVhostUser, type ServedModel } from '../../lib/serve'
import { netFeatureBits as net } from '../../lib/uapi/virtio-features'
import { describeNative, openDescriptors, TemporaryFolder, untilNoneIsOpen } from '../native/support'
import { FrontEnd, words } from './front-end'

describeNative('the control queue of a network served by vhost-user', (backend) => {
  let folder = new TemporaryFolder()
  let before = openDescriptors()
  afterEach(async () => {
    folder[Symbol.dispose]()
    await untilNoneIsOpen(before)
  })
  const serve = (model: ServedModel) => {
    backend()
    before = openDescriptors()
    folder = new TemporaryFolder()
    return serveVhostUser(model, { socket: folder.file('socket') })
  }

  // QEMU, DPDK and cloud-hypervisor run the guest's control queue themselves: what is seen of it is which queues are enabled.
  it.each([
    ['does not pass the control queue', bit(net.VIRTIO_NET_F_CTRL_VQ)],
    ['accepts the control queue and never begins it', 0n],
  ])('uses the pairs that are enabled, for whatever address, where a front end %s', async (_name, without) => {
    const device = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 3 })
    using server = serve(device)
    using front = new FrontEnd(backend(), server.path)
    await front.begin(without)
    const queues = [0, 1, 2, 3, 4, 5].map((index) => front.queue(index))
    const frame = front.room(76)
    frame.bytes.set([2, 0, 0, 0, 0, 9], 12)
    const exchange = async (pair: number) => {
      const [receive, transmit] = [queues[2 * pair], queues[2 * pair + 1]]
      if (receive === undefined || transmit === undefined) throw new Error('no such pair')
      const buffer = front.room(128)
      for (const [queue, at, length, isWritten] of [
        [receive, buffer.guest, 128, true],
        [transmit, frame.guest, 76, false],
      ] as const) {
        queue.ring.begin()
        queue.ring.pushAddress(at, length, isWritten)
        queue.ring.commit(pair)
        queue.ring.publish()
        queue.kick.signal()
      }
      return [await transmit.take(), await receive.take(), receive.ring.usedLength]
    }
    for (const pair of [0, 1, 2]) expect(await exchange(pair)).toEqual([pair, pair, 76])
    // Fewer, and more again.
    for (const index of [4, 5]) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 0))).toBe(0n)
    expect(await exchange(1)).toEqual([1, 1, 76])
    for (const index of [4, 5]) expect(await front.acknowledged('SET_VRING_ENABLE', words(index, 1))).toBe(0n)
    expect(await exchange(2)).toEqual([2, 2, 76])
    expect([server.refusals, device.violations]).toEqual([[], []])
  })

  it('holds to the pairs that its control queue was told of where that is passed', async () => {
    const device = networkDevice({ mac: '02:00:00:00:00:01', queuePairs: 2 })
    using server = serve(device)
    using front = new FrontEnd(backend(), server.path)
    await front.begin()
    const queues = [4, 0, 1, 2, 3].map((index) => front.queue(index))
    const [control, , , , transmit] = queues
    if (control === undefined || transmit === undefined) throw new Error('no queues')
    const frame = front.room(76)
    transmit.ring.begin()
    transmit.ring.pushAddress(frame.guest, 76, false)
    transmit.ring.commit(7)
    transmit.ring.publish()
    transmit.kick.signal()
    const tell = async (pairs: number) => {
      const command = front.room(4)
      const ack = front.room(1)
      command.bytes.set([4, 0, pairs, 0])
      control.ring.begin()
      control.ring.pushAddress(command.guest, 4, false)
      control.ring.pushAddress(ack.guest, 1, true)
      control.ring.commit(pairs)
      control.ring.publish()
      control.kick.signal()
      expect(await control.take()).toBe(pairs)
      return ack.bytes[0]
    }
    expect(await tell(1)).toBe(0)
    expect(transmit.ring.take()).toBe(-1)
    expect(await tell(2)).toBe(0)
    expect(await transmit.take()).toBe(7)
  })
})
