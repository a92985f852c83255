// Where a miss server calls the program: faults, and the end of its port.

import { MissServer, type MissServerOptions } from '../../../lib/misses/miss-server.js'
import { TestPort } from '../../misses/support.js'
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
]
