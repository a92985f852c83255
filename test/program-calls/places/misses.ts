// Where a miss server calls the program: faults, the end of its port, and whether the device reaches the memory of an answer.

import type { Handle } from '../../../lib/backend/backend.js'
import { Failures } from '../../../lib/base/failures.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { MissServer, type MissServerOptions } from '../../../lib/misses/miss-server.js'
import { missPort } from '../../../lib/misses/port.js'
import type { MissRequest } from '../../../lib/misses/translator.js'
import { page, TestPort } from '../../misses/support.js'
import type { Place, Program } from '../place.js'

function bench(options: MissServerOptions) {
  const port = new TestPort()
  return { port, server: new MissServer(port, { translate: () => undefined }, options) }
}

const sceneOf = ({ port, server }: ReturnType<typeof bench>, act: () => unknown) => ({
  act,
  verbs: {
    invalidate: () => server.invalidate(),
    retry: () => server.retry(),
    prefetch: () => server.prefetch({ first: 0n, last: 0n }).catch(() => undefined),
    'another miss': () => port.miss(0x9000n),
    unanswered: () => server.unanswered,
  },
  close: () => server.close(),
  closeDevice: () => server.close(),
  end: () => {
    server.close()
    return port.isListening ? ['a listener'] : []
  },
})

export const missPlaces: readonly Place[] = [
  {
    name: 'onFault of a miss server',
    covers: ['MissServerOptions.onFault'],
    heardBy: 'uncaught',
    make: (_, program: Program) => {
      let depth = 0
      const made = bench({
        onFault: () => {
          // What it does may be another fault.
          if (depth > 0) return
          depth++
          try {
            program()
          } finally {
            depth--
          }
        },
      })
      const act = () => {
        for (const iova of [0x1000n, 0x2000n, 0x3000n]) made.port.miss(iova)
      }
      return Promise.resolve(sceneOf(made, act))
    },
  },
  {
    name: 'onEnd of miss servers',
    covers: ['MissServerOptions.onEnd'],
    heardBy: 'uncaught',
    make: (_, program: Program) => {
      const benches = [0, 1, 2].map(() => bench({ onEnd: () => program() }))
      const [first] = benches
      if (first === undefined) throw new Error('there are three')
      const act = () => {
        for (const { port } of benches) {
          port.readFailure = new Error('EBADFD')
          port.call()
        }
      }
      return Promise.resolve(sceneOf(first, act))
    },
  },
  {
    name: 'the reach of a backend that misses are answered for',
    covers: ['missPort(backend).reaches', 'MissPort.reaches'],
    heardBy: 'uncaught',
    make: ({ simulator }, program: Program) => {
      const test = new TestPort()
      const backend = {
        reaches: () => {
          program()
          return true
        },
      }
      // Of the node there is the reach only; what is read and written is the test's.
      const node = { path: test.path, read: () => 0, onReadable: () => ({}) } as unknown as Handle
      const whole = missPort(node, backend)
      const port = Object.assign(test, { reaches: (region: MemoryRegion) => whole.reaches?.(region) === true })
      const regions = [0, 1, 2].map(() => simulator.allocate(4096))
      const translate = ({ iova }: MissRequest) => {
        const region = regions[Number(iova >> 12n)]
        return region === undefined ? undefined : { ...page(iova), uaddr: region.address, region }
      }
      const server = new MissServer(port, { translate })
      const scene = sceneOf({ port, server }, () => {
        for (const index of regions.keys()) port.miss(BigInt(index) << 12n)
      })
      const end = () => {
        const left = scene.end()
        const failures = new Failures()
        for (const region of regions) failures.now(() => region.close())
        failures.throwMet('memory is held')
        return left
      }
      return Promise.resolve({ ...scene, end })
    },
  },
]
