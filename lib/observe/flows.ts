// What leads to what in a trace: a kick to the next call of its queue, a miss to the update that answers it. It numbers flows and draws none.

interface Miss {
  readonly iova: bigint
  readonly flow: number
}

/** The flows of one trace, numbered from 1. */
export class Flows {
  #last = 0
  /** The flow of a queue that was kicked and not called since. */
  readonly #kicked = new Map<string, number>()
  readonly #missed = new Map<string, Miss[]>()

  /** A kick: it begins a flow, or goes on in the one that no call has ended yet. */
  kicked(queue: string): number {
    const flow = this.#kicked.get(queue) ?? ++this.#last
    this.#kicked.set(queue, flow)
    return flow
  }

  /** A call: the flow that it ends, where there was a kick. */
  called(queue: string): number | undefined {
    const flow = this.#kicked.get(queue)
    this.#kicked.delete(queue)
    return flow
  }

  /** A miss. One that is asked again goes on in its flow. */
  missed(handle: string, iova: bigint): number {
    const misses = this.#missed.get(handle) ?? []
    this.#missed.set(handle, misses)
    const known = misses.find((miss) => miss.iova === iova)
    if (known !== undefined) return known.flow
    misses.push({ iova, flow: ++this.#last })
    return this.#last
  }

  /** An update of `size` bytes: the flows of the misses in it. Size 0 stands for all 2^64 bytes, as in the kernel's message. */
  updated(handle: string, iova: bigint, size: bigint): number[] {
    const misses = this.#missed.get(handle) ?? []
    const isIn = (miss: Miss): boolean => miss.iova >= iova && (size === 0n || miss.iova - iova < size)
    this.#missed.set(
      handle,
      misses.filter((miss) => !isIn(miss)),
    )
    return misses.filter(isIn).map(({ flow }) => flow)
  }
}
