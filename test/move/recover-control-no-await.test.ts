// A device that is closed without waiting for its recovery, under a guest whose control queue is shadowed: the recovery ends by name, and the guest is let go of.

import { expect, test } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { Guest, makeWorld, path, startShadow } from '../control/guest.js'

/** Which verb ends the device, whether there is something to be replayed, and how many steps of promises after the recovery was begun. */
const cases = (['close', 'closeSync', 'reset'] as const).flatMap((verb) =>
  [true, false].map((replays) => [verb, replays] as const),
)
const STEPS = [...Array.from({ length: 40 }, (_, steps) => steps), 60, 100, 200]

test.each(cases)(
  'recoverDevice(), and %s() some steps later, with commands to be replayed: %s',
  async (verb, replays) => {
    const failures = new Set<string>()
    for (const steps of STEPS) {
      const world = await makeWorld()
      const { device, simulator } = world
      const guest = new Guest(world)
      const shadow = await startShadow(world, { guest: guest.queue() })
      if (replays) expect(await guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)).toMatchObject({ ack: 0 })
      simulator.faults.needsReset(path)
      const recovery = recoverDevice(device, { shadowControl: shadow }).then(
        ({ shadowControl }) => shadowControl,
        (failure: unknown) => failure as Error,
      )
      for (let step = 0; step < steps; step++) await Promise.resolve()
      const end = (async () => device[verb]())().catch((failure: unknown) => failure)
      const outcome = await recovery
      const ended = await end
      expect([undefined, 'ERR_VDPA_STATE', 'ERR_VDPA_CLOSED']).toContain(isVdpaError(ended) ? ended.code : ended)
      await device.close()
      if (outcome instanceof Error) failures.add(isVdpaError(outcome) ? outcome.code : String(outcome))
      else {
        expect(outcome?.isClosed).toBe(true)
        await outcome?.detach()
      }
      // Of two shadows the program has this one; the other is the outcome, or has no guest.
      await shadow.detach()
      // Nobody listens to the guest: the place of its one listener is free.
      guest.kick.onSignal(() => undefined).close()
      for (const owned of [guest.kick, guest.call, ...guest.regions]) owned.close()
      expect(simulator.descriptors).toEqual([])
    }
    expect([...failures].filter((code) => !/^ERR_VDPA_(CLOSED|CANCELED)$/.test(code))).toEqual([])
    if (verb === 'close') expect([...failures]).toContain('ERR_VDPA_CLOSED')
  },
)
