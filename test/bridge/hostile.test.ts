// Front ends of a bridge that mean harm: the device is whole for the next one, and nothing of them is left in it or in this process.

import { afterEach, expect, it } from '@jest/globals'
import fc from 'fast-check'
import { openDevice } from '../../lib/open'
import { bridgeVhostUser } from '../../lib/serve'
import { blockDevice, networkDevice, Simulator } from '../../lib/simulator'
import { describeNative, leftOpen, openDescriptors, TemporaryFolder } from '../native/support'
import { attack, attacks, flood, OddDescriptors } from '../vhost-user/attacks'
import { readSector } from '../vhost-user/disk-requests'
import { FrontEnd, words } from '../vhost-user/front-end'
import { until } from '../until'

const turn = () => new Promise((resolve) => setTimeout(resolve))

describeNative('front ends of a bridge that mean harm', (backend) => {
  const folders: TemporaryFolder[] = []
  afterEach(() => {
    for (const folder of folders.splice(0)) folder[Symbol.dispose]()
  })

  async function stage(kind: 'net' | 'block') {
    const folder = new TemporaryFolder()
    folders.push(folder)
    backend()
    const simulator = new Simulator()
    const content = new Uint8Array(32_768).map((_, index) => index >> 9)
    const model =
      kind === 'block' ? blockDevice({ capacity: 64, content }) : networkDevice({ mac: '02:00:00:00:00:01' })
    const device = await openDevice(simulator.add(model), { backend: simulator })
    const bridge = await bridgeVhostUser(device, { socket: folder.file('socket'), messageTimeout: 200 })
    const before = openDescriptors()

    /** Nothing of a front end is left, and the next one is served. */
    async function isWell(): Promise<void> {
      await until(() => bridge.frontEnds === 0)
      // The device is stopped, and its memory unmapped, after the connection has ended.
      await until(() => leftOpen(before).length === 0 && device.addressSpace(0).size === 0)
      using good = new FrontEnd(backend(), bridge.path)
      await good.begin(0n, 1n << 16n)
      const queue = good.queue(0)
      if (kind === 'block') expect(await readSector(good, queue, 7n)).toEqual([7, 0])
      expect((await good.ask('GET_CONFIG', words(0, 8, 0, 0n))).payload.length).toBe(20)
    }
    const end = async () => {
      await until(() => bridge.frontEnds === 0)
      await bridge.close()
      await device.close()
      expect(simulator.descriptors).toEqual([])
    }
    return { bridge, isWell, [Symbol.asyncDispose]: end }
  }

  it.each(['net', 'block'] as const)('send messages of any shape, with descriptors of any kind (%s)', async (kind) => {
    using odd = new OddDescriptors(backend())
    await using world = await stage(kind)
    const { bridge, isWell } = world
    await fc.assert(
      fc.asyncProperty(attacks, fc.boolean(), async (messages, isPolite) => {
        const bad = new FrontEnd(backend(), bridge.path)
        if (isPolite) await bad.begin(0n, 1n << 16n)
        await attack(bad, messages, odd)
        bad.close()
        await isWell()
      }),
      { numRuns: 120 },
    )
    expect(bridge.refusalCount).toBeGreaterThan(40)
    for (const refusal of bridge.refusals) expect(refusal).toMatch(/^[A-Z_]+: /)
  })

  it('ask without end and read nothing, or are silent in the middle of a message', async () => {
    await using world = await stage('block')
    const { bridge, isWell } = world
    {
      using bad = new FrontEnd(backend(), bridge.path)
      await bad.begin(0n, 1n << 16n)
      await flood(bad)
    }
    await isWell()
    using silent = new FrontEnd(backend(), bridge.path)
    silent.socket.send(words(2, 1))
    await until(() => bridge.refusals.some((refusal) => refusal.startsWith('ERR_VDPA_TIMEOUT')))
    silent.close()
    expect(bridge.refusals).toContainEqual(expect.stringContaining('does not read its answers'))
    await isWell()
  })

  it('come by the thousand, most of them while another is there', async () => {
    await using world = await stage('block')
    const { bridge, isWell } = world
    {
      using first = new FrontEnd(backend(), bridge.path)
      await first.begin(0n, 1n << 16n)
      for (let count = 0; count < 1000;) {
        try {
          const socket = backend().sockets.connect(bridge.path)
          socket.send(words(2, 1, 8).subarray(0, count % 12))
          socket.close()
          count++
        } catch {
          // The backlog is full.
          await turn()
        }
      }
      expect((await first.ask('GET_CONFIG', words(0, 8, 0, 0n))).payload.length).toBe(20)
      await until(() => bridge.refusalCount >= 1000)
      expect(bridge.frontEnds).toBe(1)
    }
    await isWell()
  })
})
