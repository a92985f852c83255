// A guest that attacks its shadow: it writes all over its own memory and rings while commands flow. It may break its own queue; it changes, reads and stalls nothing else.

import { expect, test } from '@jest/globals'
import fc from 'fast-check'
import type { ShadowControlQueue } from '../../lib/control/shadow-queue.js'
import { netCommands, type NetCommandName } from '../../lib/uapi/virtio-net-commands.js'
import { BASE, Guest, kinds, makeWorld, MEMORY_BYTES, startShadow, turn, type World } from './guest.js'

const guarded = 0x5a

type Step =
  | { readonly do: 'scribble'; readonly at: number; readonly bytes: Uint8Array }
  | { readonly do: 'command'; readonly name: NetCommandName; readonly value: unknown }
  | { readonly do: 'raw'; readonly bytes: Uint8Array; readonly room: number }
  | { readonly do: 'kick' | 'turn' | 'program' | 'reattach' }

// Rings and slots are in the first pages, where most of what is written shall go.
const place = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 0x4000 }) },
  { weight: 3, arbitrary: fc.integer({ min: 0x8000, max: 0x9000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: MEMORY_BYTES - 64 }) },
)
const vlan = fc.integer({ min: 0, max: 40 })
const command = fc.oneof(
  vlan.map((value) => ({ do: 'command' as const, name: 'VIRTIO_NET_CTRL_VLAN_ADD' as const, value })),
  vlan.map((value) => ({ do: 'command' as const, name: 'VIRTIO_NET_CTRL_VLAN_DEL' as const, value })),
  fc.boolean().map((value) => ({ do: 'command' as const, name: 'VIRTIO_NET_CTRL_RX_ALLMULTI' as const, value })),
  fc.array(fc.constant('02:00:00:00:00:77'), { maxLength: 6 }).map((unicast) => ({
    do: 'command' as const,
    name: 'VIRTIO_NET_CTRL_MAC_TABLE_SET' as const,
    value: { unicast, multicast: [] },
  })),
  fc
    .constantFrom(1, 2)
    .map((value) => ({ do: 'command' as const, name: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET' as const, value })),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: command },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('scribble' as const),
      at: place,
      bytes: fc.oneof(
        fc.uint8Array({ minLength: 1, maxLength: 64 }),
        // What looks like descriptors and indices of somewhere near.
        fc
          .array(fc.constantFrom(0, 1, 2, 3, 4, 0x80, 0xff, 0x10), { minLength: 1, maxLength: 48 })
          .map((list) => Uint8Array.from(list)),
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('raw' as const),
      bytes: fc.uint8Array({ maxLength: 40 }),
      room: fc.integer({ min: 0, max: 20 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom('kick' as const, 'turn' as const, 'program' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reattach' as const) }) },
)

async function play(
  guest: Guest,
  shadow: ShadowControlQueue<never> | Awaited<ReturnType<typeof startShadow>>,
  one: Step,
) {
  switch (one.do) {
    case 'scribble':
      for (const [index, byte] of one.bytes.entries()) guest.bytes(one.at + index, 1)[0] = byte
      return
    case 'command':
      return void guest.command(one.name, one.value).catch(() => undefined)
    case 'raw':
      return void guest.send(one.bytes, one.room).catch(() => undefined)
    case 'kick':
      return guest.kick.signal()
    case 'turn':
      return turn()
    case 'program':
      return shadow.control.setPromiscuous(true)
    case 'reattach': {
      const state = await shadow.detach()
      return shadow.attach(guest.queue(state))
    }
  }
}

/** What the device has, told to another one, is what the device has. */
async function isTheState(world: World, shadow: { commands(): ReturnType<ShadowControlQueue['commands']> }) {
  const other = await makeWorld()
  const there = await startShadow(other)
  await there.control.replay(shadow.commands())
  const [mine, theirs] = [world, other].map(({ model }) => ({ ...model.control, mac: [...model.control.mac] }))
  expect(theirs).toEqual(mine)
  await other.device.close()
}

test.each(kinds)(
  'a guest with a ring that is %s changes nothing but what the device acknowledged, and stalls nobody',
  async (_, kind) => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async (steps) => {
        const world = await makeWorld()
        const guard = world.simulator.allocate(4096)
        guard.view(0, 4096).fill(guarded)
        const guest = new Guest(world, kind)
        guest.isHostile = true
        const shadow = await startShadow(world, { guest: guest.queue(), timeout: 200 })
        try {
          for (const one of steps) await play(guest, shadow, one)
          for (let count = 0; count < 10; count++) await turn()
          // The program's own commands are served, and the guest may come again.
          await shadow.control.addVlan(4000)
          await shadow.detach()
          await isTheState(world, shadow)
          for (const { failure } of world.broken.map((failure) => ({ failure })))
            expect(failure).toMatchObject({ code: 'ERR_VDPA_RING_BROKEN' })
          const next = new Guest(world, kind)
          shadow.attach(next.queue())
          expect(await next.command('VIRTIO_NET_CTRL_VLAN_ADD', 4001)).toMatchObject({ ack: 0, used: 1 })
          expect(world.model.control.vlans.has(4000) && world.model.control.vlans.has(4001)).toBe(true)
          expect(guard.view(0, 4096).every((byte) => byte === guarded)).toBe(true)
        } finally {
          await world.device.close()
        }
      }),
      { numRuns: 60 },
    )
  },
)

test('what was judged is what is sent: the guest changes its command while the policy thinks', async () => {
  const world = await makeWorld()
  const guest = new Guest(world)
  const judged: unknown[] = []
  await startShadow(world, {
    guest: guest.queue(),
    policy: async ({ value }) => {
      judged.push(value)
      for (let token = 0; token < 8; token++) guest.bytes(guest.slotOf(token) + 2, 6).fill(0xbb)
      await turn()
      for (let token = 0; token < 8; token++) guest.bytes(guest.slotOf(token), 2).fill(4)
      return 'allow' as const
    },
  })
  expect(await guest.command('VIRTIO_NET_CTRL_MAC_ADDR_SET', '02:00:00:00:00:05')).toMatchObject({ ack: 0 })
  expect(judged).toEqual(['02:00:00:00:00:05'])
  expect(world.model.mac).toBe('02:00:00:00:00:05')
  await world.device.close()
})

test.each(kinds)(
  'memory that a guest with a ring that is %s takes away breaks its queue and nothing else',
  async (_, kind) => {
    const world = await makeWorld()
    const guest = new Guest(world, kind)
    const shadow = await startShadow(world, { guest: guest.queue() })
    expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 1)).toMatchObject({ ack: 0 })
    // Commands lie in a piece that is gone: they are refused. Then the memory of the ring itself is freed.
    guest.memory.remove(BASE + BigInt(MEMORY_BYTES / 2))
    guest.memory.remove(BASE)
    guest.isHostile = true
    void guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 2)
    for (let count = 0; count < 5; count++) await turn()
    for (const region of guest.regions) region.close()
    guest.kick.signal()
    for (let count = 0; count < 5; count++) await turn()
    expect(shadow.failure === undefined).toBe(world.broken.length === 0)
    await shadow.control.addVlan(3)
    expect([...world.model.control.vlans]).toEqual([1, 3])
    await shadow.detach()
    await world.device.close()
  },
)

test.each(['VIRTIO_NET_CTRL_MAC_TABLE_SET', 'VIRTIO_NET_CTRL_STATS_GET'] as const)(
  '%s with lengths that lie, or in memory that the guest has not, gets its answer',
  async (name) => {
    for (const [address, length] of [
      [0n, 16],
      [BASE + BigInt(MEMORY_BYTES) - 4n, 64],
      [0xffff_ffff_ffff_fff0n, 16],
      [BASE, 0x7fff_ffff],
    ] as const) {
      const world = await makeWorld()
      const guest = new Guest(world)
      const shadow = await startShadow(world, { guest: guest.queue() })
      const entry = netCommands[name]
      guest.bytes(0x8000, 2).set([entry.class, entry.command])
      guest.ring.begin()
      guest.ring.pushAddress(BASE + 0x8000n, 2, false)
      guest.ring.pushAddress(address, length, false)
      guest.ring.pushAddress(BASE + 0x8100n, 9, true)
      guest.ring.commit(0)
      if (guest.ring.publish()) guest.kick.signal()
      while (world.audited.length === 0) await turn()
      // Of a table that is longer than any command nothing but that is known, and the device can be promiscuous.
      const isFallback = length === 0x7fff_ffff && name === 'VIRTIO_NET_CTRL_MAC_TABLE_SET'
      const ack = isFallback ? 0 : 1
      expect(world.audited[0]).toMatchObject({ outcome: isFallback ? 'forwarded' : 'refused', ack })
      guest.ring.take()
      expect([guest.ring.usedLength, guest.bytes(0x8100, 1)[0]]).toEqual([1, ack])
      expect(shadow.commands().length).toBe(isFallback ? 1 : 0)
      await world.device.close()
    }
  },
)
