// A port that the test holds the other end of, and translators that say what they are told to.

import { afterEach } from '@jest/globals'
import type { MissFault } from '../../lib/misses/miss-faults.js'
import { MissServer, type MissServerOptions } from '../../lib/misses/miss-server.js'
import type { MissPort } from '../../lib/misses/port.js'
import type { MissAnswer, MissRequest, MissVerdict } from '../../lib/misses/translator.js'
import { iotlbMessageTypes, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'

/** What a device was written, in short: `update 0x1000+0x1000 rw`. */
export class TestPort implements MissPort {
  readonly path = '/dev/vhost-net'
  readonly written: string[] = []
  readonly uaddrs: bigint[] = []
  readonly records: Uint8Array[] = []
  refusal: Error | undefined
  readFailure: Error | undefined
  isListening = false
  #listener: (() => void) | undefined

  read(): Uint8Array | undefined {
    if (this.readFailure !== undefined) throw this.readFailure
    return this.records.shift()
  }

  write(record: Uint8Array): void {
    if (this.refusal !== undefined) throw this.refusal
    const { type, iova, size, uaddr, perm } = vhostMsgV2.decode(record)
    const name = type === iotlbMessageTypes.VHOST_IOTLB_UPDATE ? 'update' : 'invalidate'
    this.written.push(`${name} 0x${iova.toString(16)}+0x${size.toString(16)} ${['', 'ro', 'wo', 'rw'][perm] ?? '?'}`)
    this.uaddrs.push(uaddr)
  }

  onReadable(listener: () => void): Disposable {
    this.#listener = listener
    this.isListening = true
    return {
      [Symbol.dispose]: () => {
        this.isListening = false
        this.#listener = undefined
      },
    }
  }

  /** As poll would: until there is nothing, or nobody listens. */
  wake(): void {
    for (let left = 1000; left > 0 && this.records.length > 0; left--) {
      if (this.#listener === undefined) return
      this.#listener()
    }
  }

  call(): void {
    this.#listener?.()
  }

  miss(iova: bigint, perm = 1): void {
    this.records.push(missRecord(iova, perm))
    this.wake()
  }
}

export function missRecord(iova: bigint, perm = 1, type: number = iotlbMessageTypes.VHOST_IOTLB_MISS): Uint8Array {
  return vhostMsgV2.encode({ message: 2, asid: 0, iova, size: 0n, uaddr: 0n, perm, type })
}

/** A page of an identity map. */
export function page(iova: bigint): MissAnswer {
  return { iova: iova & ~0xfffn, size: 0x1000n, uaddr: 0x7f00_0000_0000n + (iova & ~0xfffn), access: 'rw' }
}

export type Translate = (request: MissRequest) => MissVerdict | PromiseLike<MissVerdict>

/** A translator whose answers the test gives, in whatever order. */
export function later() {
  const asked: { request: MissRequest; answer: (verdict: MissVerdict) => void; fail: (why: unknown) => void }[] = []
  const translate: Translate = (request) =>
    new Promise((answer, fail) => {
      asked.push({ request, answer, fail })
    })
  return { asked, translate }
}

export const settled = () => new Promise((resolve) => setImmediate(resolve))

const servers: MissServer[] = []
// What a test leaves unanswered is not waited for.
afterEach(() => servers.splice(0).forEach((server) => server.close()))

/** A server of a port, until the test has ended. */
export function serve(translate: Translate, options: MissServerOptions = {}) {
  const port = new TestPort()
  const faults: MissFault[] = []
  const server = new MissServer(port, { translate }, { onFault: (fault) => faults.push(fault), ...options })
  servers.push(server)
  const reasons = () => faults.map(({ reason }) => reason)
  return { port, server, faults, reasons }
}
