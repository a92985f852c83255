// Where the shadows of queues call the program: the policy, who is told of commands, and the notifications of guests.

import type { Eventfd } from '../../../lib/backend/backend.js'
import { Failures } from '../../../lib/base/failures.js'
import type { ShadowControlQueue } from '../../../lib/control/shadow-queue.js'
import { ShadowQueue } from '../../../lib/shadow/shadow-queue.js'
import { Guest, makeWorld, startShadow, type World } from '../../control/guest.js'
import { BASE, makeNetWorld, MEMORY_BYTES, NetGuest, SIZE, turn } from '../../shadow/guest.js'
import { turns, type Place, type Program } from '../place.js'

function shadowPlace(name: 'policy' | 'onAudit'): Place {
  return {
    name: `${name} of a ShadowControlQueue`,
    covers: [`ShadowOptions.${name}`],
    heardBy: 'uncaught',
    make: async (world, program: Program) => {
      const own = await makeWorld()
      world.things.net = own.device
      const guest = new Guest(own)
      const told = {
        policy: () => {
          program()
          return 'allow' as const
        },
        onAudit: program,
      }
      const shadow = await startShadow(own, { guest: guest.queue(), [name]: told[name] })
      const command = () => void guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)
      const act = async () => {
        for (let count = 0; count < 3; count++) command()
        await turns()
      }
      const verbs = {
        command,
        'attach again': () => shadow.attach(guest.queue()),
        'a command of the program': () => shadow.control.setMacAddress('02:00:00:00:00:01'),
        ...verbsOf(own, shadow),
      }
      const end = async () => {
        await own.device.close()
        await shadow.detach()
        for (const owned of [guest.kick, guest.call, ...guest.regions]) owned.close()
        return own.simulator.descriptors.map(({ what }) => what)
      }
      return { act, verbs, close: () => shadow.close(), closeDevice: () => own.device.close(), end }
    },
  }
}

/** Three guests, one after another, each of which says that more commands are there than its ring has. */
const onBroken: Place = {
  name: 'onBroken of a ShadowControlQueue',
  covers: ['ShadowOptions.onBroken'],
  heardBy: 'uncaught',
  make: async (world, program) => {
    const own = await makeWorld()
    world.things.net = own.device
    const guests = [0, 1, 2].map(() => new Guest(own))
    const [first, , last] = guests as [Guest, Guest, Guest]
    const shadow = await startShadow(own, { guest: first.queue(), onBroken: program })
    const spoil = ({ regions, kick }: Guest) => {
      // The available index of a split ring, in its driver area (2.7.6).
      regions[0]?.view(0x1002, 2).fill(0x77)
      kick.signal()
    }
    const act = async () => {
      for (const guest of guests) {
        if (guest !== first) await shadow.detach().then(() => shadow.attach(guest.queue()))
        spoil(guest)
        await turns()
      }
    }
    const verbs = {
      command: () => void last.command('VIRTIO_NET_CTRL_VLAN_ADD', 7),
      'a command of the program': () => shadow.control.setMacAddress('02:00:00:00:00:01'),
      ...verbsOf(own, shadow),
    }
    const end = async () => {
      await own.device.close()
      await shadow.detach()
      for (const { kick, call, regions } of guests) for (const owned of [kick, call, ...regions]) owned.close()
      return own.simulator.descriptors.map(({ what }) => what)
    }
    return { act, verbs, close: () => shadow.close(), closeDevice: () => own.device.close(), end }
  },
}

/** Two guests with two queues each, on one device: each queue says that more chains are there than its ring has. */
const onDataBroken: Place = {
  name: 'onBroken of a ShadowQueue',
  covers: ['ShadowQueueOptions.onBroken'],
  heardBy: 'uncaught',
  make: async (world, program) => {
    const own = await makeNetWorld([], { queuePairs: 2 }, () => ({ onBroken: program }))
    const { device, guest, simulator } = own
    world.things.net = device
    const space = device.addressSpace(0)
    const other = new NetGuest(simulator, [], BASE + MEMORY_BYTES)
    const guests = [guest, other]
    for (const { memory } of guests) await space.map(memory)
    const wish = { space, onBroken: program }
    const more = [2, 3].map((index) => new ShadowQueue(device, { ...wish, index, guest: other.queue(index - 2) }))
    const shadows = [...own.shadows, ...more]
    await ShadowQueue.beginAll(shadows)
    await device.start()
    const act = async () => {
      // The available index of a split ring, in its driver area behind the descriptors (2.7.6).
      for (const one of guests) for (const at of [0, 1]) one.bytes(at * 0x8000 + SIZE * 16 + 2, 2).fill(0x77)
      for (const { kicks } of guests) for (const kick of kicks) kick.signal()
      for (let count = 0; count < 30; count++) await turn()
    }
    const [first] = shadows as [ShadowQueue]
    const verbs = {
      begin: () => first.begin(),
      end: () => first.end(),
      'end all': () => ShadowQueue.endAll(shadows),
      close: () => first.close(),
      suspend: () => device.suspendSync(),
      reset: () => device.resetSync(),
      'close on the spot': () => device.closeSync(),
    }
    const end = async () => {
      await device.close()
      for (const shadow of shadows) await shadow.close()
      for (const one of guests) one.close()
      return simulator.descriptors.map(({ what }) => what)
    }
    return { act, verbs, close: () => first.close(), closeDevice: () => device.close(), end }
  },
}

/** What a program may ask of a shadow at any time, whatever it was called for. */
function verbsOf(own: World, shadow: ShadowControlQueue) {
  return {
    commands: () => shadow.commands(),
    detach: () => shadow.detach(),
    dispose: () => shadow[Symbol.asyncDispose](),
    suspend: () => own.device.suspendSync(),
    reset: () => own.device.resetSync(),
    'close on the spot': () => own.device.closeSync(),
  }
}

/** Frees what a guest and its shadow have, and says what is left of it. */
function endOf(own: World, shadow: ShadowControlQueue, ...guests: Guest[]) {
  return async () => {
    await own.device.close()
    await shadow.detach()
    const left = guests.filter(({ kick }) => isListenedTo(kick)).map(() => 'a listener')
    for (const { kick, call, regions } of guests) for (const owned of [kick, call, ...regions]) owned.close()
    return [...left, ...own.simulator.descriptors.map(({ what }) => what)]
  }
}

/** Has room for one listener, and refuses another. */
function isListenedTo(eventfd: Eventfd): boolean {
  try {
    eventfd.onSignal(() => undefined).close()
    return false
  } catch {
    return true
  }
}

/** An eventfd that tells the program of each signal. */
function telling(eventfd: Eventfd, program: Program): Eventfd {
  const signal = () => {
    eventfd.signal()
    program()
  }
  return new Proxy(eventfd, {
    get: (target, name) => {
      const value: unknown = name === 'signal' ? signal : Reflect.get(target, name, target)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}

/** The guest is interrupted by a function of the program, for three commands one after the other. */
const interrupts: Place = {
  name: 'the interrupt of a guest of a ShadowControlQueue',
  covers: ['GuestControlRing.call.signal'],
  heardBy: 'uncaught',
  make: async (world, program) => {
    const own = await makeWorld()
    world.things.net = own.device
    const guest = new Guest(own)
    const call = {
      signal: () => {
        guest.call.signal()
        program()
      },
    }
    const queue = () => ({ ...guest.queue(), call })
    const shadow = await startShadow(own, { guest: queue() })
    const command = () => void guest.command('VIRTIO_NET_CTRL_VLAN_ADD', 7)
    const act = async () => {
      for (let count = 0; count < 3; count++) {
        command()
        await turns()
      }
      const told = own.audited.length
      if (shadow.isAttached && !shadow.isClosed && told !== 3) throw new Error(`${told} commands were told of`)
    }
    const verbs = {
      'a command of the program': () => shadow.control.setMacAddress('02:00:00:00:00:01'),
      ...verbsOf(own, shadow),
    }
    return {
      act,
      verbs,
      close: () => shadow.close(),
      closeDevice: () => own.device.close(),
      end: endOf(own, shadow, guest),
    }
  },
}

/** The notifications of a guest that is attached, and detached, three times. */
const notifications: Place = {
  name: 'the notifications of a guest that is attached to a ShadowControlQueue',
  covers: ['GuestControlRing.kick.onSignal'],
  heardBy: 'caller',
  make: async (world, program) => {
    const own = await makeWorld()
    world.things.net = own.device
    const [guest, another] = [new Guest(own), new Guest(own)]
    const shadow = await startShadow(own)
    const kick = {
      onSignal: (listener: () => void) => {
        program()
        return guest.kick.onSignal(listener)
      },
    }
    const act = async () => {
      const failures = new Failures()
      for (let count = 0; count < 3; count++) {
        failures.now(() => shadow.attach({ ...guest.queue(), kick }))
        await shadow.detach()
      }
      failures.throwMet('attaching met failures')
    }
    const verbs = {
      'attach another': () => shadow.attach(another.queue()),
      ...verbsOf(own, shadow),
    }
    return {
      act,
      verbs,
      close: () => shadow.close(),
      closeDevice: () => own.device.close(),
      end: endOf(own, shadow, guest, another),
    }
  },
}

/** The guest of a data queue is interrupted by a function of the program. */
const dataInterrupts: Place = {
  name: 'the interrupt of a guest of a ShadowQueue',
  covers: [],
  heardBy: 'uncaught',
  make: async (world, program) => {
    const own = await makeNetWorld([], {}, ({ guest }, index) => {
      const queue = guest.queue(index)
      return { guest: { ...queue, call: telling(queue.call, program) } }
    })
    const { device, guest, simulator, shadows } = own
    world.things.net = device
    await device.addressSpace(0).map(guest.memory)
    await ShadowQueue.beginAll(shadows)
    await device.start()
    const act = async () => {
      for (let count = 0; count < 3; count++) {
        guest.send()
        await turns()
        guest.collect()
      }
    }
    const [first] = shadows as [ShadowQueue]
    const verbs = {
      begin: () => first.begin(),
      end: () => first.end(),
      'end all': () => ShadowQueue.endAll(shadows),
      suspend: () => device.suspendSync(),
      reset: () => device.resetSync(),
      'close on the spot': () => device.closeSync(),
    }
    const end = async () => {
      await device.close()
      for (const shadow of shadows) await shadow.close()
      guest.close()
      return simulator.descriptors.map(({ what }) => what)
    }
    return { act, verbs, close: () => first.close(), closeDevice: () => device.close(), end }
  },
}

export const shadowPlaces: readonly Place[] = [
  shadowPlace('policy'),
  shadowPlace('onAudit'),
  onBroken,
  onDataBroken,
  interrupts,
  notifications,
  dataInterrupts,
]
