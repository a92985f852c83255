// What front ends send that mean harm, or are broken: messages of any shape with descriptors of any kind, cut anywhere, without end. The same for models and for
// the bridge.

import fc from 'fast-check'
import { closeSync, openSync } from 'node:fs'
import type { KernelBackend } from '../../lib/kernel/kernel-backend'
import { words, type FrontEnd } from './front-end'

/** One message: it may be none that there is. */
export interface OddMessage {
  readonly request: number
  readonly flags: number
  readonly numbers: readonly number[]
  /** Bytes that are missing from what the header says, or that are too many. */
  readonly surplus: number
  /** Which of the odd descriptors go with it. */
  readonly files: readonly number[]
}

const numbers = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 16, 256, 4096, 0x8000, 0x1_0000, 0x10_0000, 0x4000_0000, 0x7f00, 0xffff_ffff),
  fc.nat(0xffff_ffff),
)

/** Words of the length that some request has, so that most get past the first look. */
const payload = fc
  .constantFrom(0, 2, 2, 4, 5, 8, 8, 10, 10, 18)
  .chain((length) => fc.array(numbers, { minLength: length, maxLength: length }))

/** What a front end sends from its connection to its end. */
export const attacks: fc.Arbitrary<OddMessage[]> = fc.array(
  fc.record({
    request: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 1, max: 43 }) }, numbers),
    flags: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(1, 9) }, numbers),
    numbers: payload,
    surplus: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.integer({ min: -4, max: 4 })),
    files: fc.array(fc.nat(5), { maxLength: 3 }),
  }),
  { minLength: 1, maxLength: 25 },
)

/** Descriptors of many kinds; `[Symbol.dispose]()` closes them. */
export class OddDescriptors {
  readonly fds: readonly number[]
  readonly #close: () => void

  constructor(backend: KernelBackend) {
    const [folder, nothing] = [openSync('/', 'r'), openSync('/dev/null', 'r+')]
    const eventfd = backend.eventfd()
    const [one, other] = backend.sockets.pair()
    const memory = backend.allocate(1 << 20)
    if (memory.fd === undefined) throw new Error('memory of the kernel has an fd')
    this.fds = [folder, nothing, eventfd.fd, one.fd, memory.fd, other.fd]
    this.#close = () => {
      closeSync(folder)
      closeSync(nothing)
      for (const owned of [eventfd, one, other, memory]) owned.close()
    }
  }

  [Symbol.dispose](): void {
    this.#close()
  }
}

/** Sends messages one after another, and looks at no answer; ends where the back end ended the connection. */
export async function attack(front: FrontEnd, messages: readonly OddMessage[], odd: OddDescriptors): Promise<void> {
  for (const { request, flags, numbers: values, surplus, files } of messages) {
    const bytes = words(request, flags, Math.max(0, 4 * values.length + surplus), ...values)
    try {
      front.socket.send(
        bytes,
        files.flatMap((at) => odd.fds[at] ?? []),
      )
    } catch {
      return
    }
  }
  // What was sent is read before the news of the end.
  await new Promise((resolve) => setImmediate(resolve))
}

/** Asks, and never reads an answer, until the other side has enough. */
export async function flood(front: FrontEnd): Promise<void> {
  for (;;) {
    try {
      if (front.socket.send(words(1, 1, 0)) === 0) await new Promise((resolve) => setImmediate(resolve))
    } catch {
      return
    }
  }
}
