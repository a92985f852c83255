// Requests of vhost-vdpa through a region: each a message that is written and an answer that is read.

import { requestByNumber } from '../uapi/vhost.js'
import { vhostVfioFlags, vhostVfioOp } from '../uapi/vhost-vfio.js'
import { encodeMessage, HEAD_BYTES } from './codec.js'
import { protocolError, refused } from './refusal.js'
import { CONTROL_OFFSET, type ChannelRegion } from './region.js'
import { answerBytes, COUNT_BYTES, IOTLB_BYTES, RESULT_BYTES, WRITE_IOTLB } from './today.js'

const FLAGS = vhostVfioFlags.VHOST_VFIO_NEED_REPLY | vhostVfioFlags.REPLY_RESULT

/** How IOTLB messages ended: how many were taken, and the errno that ended them, 0 where none did. */
export interface WrittenMessages {
  readonly completed: number
  readonly errno: number
}

/** The questions that one client asks. Calls are carried out in the order they are made. */
export class TodayClient {
  readonly region: ChannelRegion
  readonly #path: string

  constructor(region: ChannelRegion, path: string) {
    this.region = region
    this.#path = path
  }

  /** An ioctl: what it returned; `argument` is updated in place. Refusals are thrown. ERR_VDPA_PROTOCOL. */
  ioctl(request: number, argument: Uint8Array): number {
    const answer = new Uint8Array(answerBytes(argument.byteLength))
    this.region.pwrite(encodeMessage(BigInt(request), FLAGS, argument), CONTROL_OFFSET)
    const count = this.region.pread(answer, CONTROL_OFFSET)
    return this.#take(request, answer.subarray(0, count), argument)
  }

  /** The same without waiting on this thread, where the region can. */
  async ioctlAsync(request: number, argument: Uint8Array): Promise<number> {
    const answer = new Uint8Array(answerBytes(argument.byteLength))
    const count = await this.#ask(encodeMessage(BigInt(request), FLAGS, argument), answer)
    return this.#take(request, answer.subarray(0, count), argument)
  }

  /** Writes whole IOTLB messages, as many as one message carries. */
  write(records: Uint8Array): WrittenMessages {
    const answer = new Uint8Array(answerBytes(COUNT_BYTES))
    this.region.pwrite(encodeMessage(WRITE_IOTLB, FLAGS, records), CONTROL_OFFSET)
    const count = this.region.pread(answer, CONTROL_OFFSET)
    return this.#takeWritten(answer.subarray(0, count), records.byteLength / IOTLB_BYTES)
  }

  /** The same without waiting on this thread, where the region can. */
  async writeAsync(records: Uint8Array): Promise<WrittenMessages> {
    const answer = new Uint8Array(answerBytes(COUNT_BYTES))
    const count = await this.#ask(encodeMessage(WRITE_IOTLB, FLAGS, records), answer)
    return this.#takeWritten(answer.subarray(0, count), records.byteLength / IOTLB_BYTES)
  }

  /** Both calls are made before either is waited for, so that nobody's come between. */
  async #ask(message: Uint8Array, answer: Uint8Array): Promise<number> {
    const { region } = this
    if (region.pwriteAsync === undefined || region.preadAsync === undefined) {
      region.pwrite(message, CONTROL_OFFSET)
      return region.pread(answer, CONTROL_OFFSET)
    }
    const asked = [region.pwriteAsync(message, CONTROL_OFFSET), region.preadAsync(answer, CONTROL_OFFSET)] as const
    const [, count] = await Promise.all(asked)
    return count
  }

  #take(request: number, answer: Uint8Array, argument: Uint8Array): number {
    const name = requestByNumber(request)?.name ?? `ioctl 0x${request.toString(16)}`
    const { result, payload } = this.#decode(BigInt(request), answer, argument.byteLength, name)
    if (result < 0) throw refused(-result, { syscall: 'ioctl', path: this.#path, request: name })
    argument.set(payload)
    return result
  }

  #takeWritten(answer: Uint8Array, most: number): WrittenMessages {
    const { result, payload } = this.#decode(WRITE_IOTLB, answer, COUNT_BYTES, 'an IOTLB message')
    const completed = new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true)
    const isDone = completed === BigInt(most)
    if (completed > BigInt(most) || isDone !== (result === 0))
      throw protocolError(`${completed} of ${most} messages were taken, and the result is ${result}`)
    return { completed: Number(completed), errno: -result }
  }

  /** The result and what follows it. The far end's word is not taken: an answer is to what was asked, and as long as it must be. */
  #decode(request: bigint, answer: Uint8Array, length: number, name: string): { result: number; payload: Uint8Array } {
    if (answer.byteLength === 0)
      throw protocolError('there is no answer: the far end speaks a draft, which has no such request', name)
    if (answer.byteLength !== answerBytes(length))
      throw protocolError(`an answer of ${answer.byteLength} bytes, not ${answerBytes(length)}`, name)
    const head = vhostVfioOp.decode(answer)
    if (head.request !== request) throw protocolError(`an answer to 0x${head.request.toString(16)}`, name)
    if (head.size !== RESULT_BYTES + length || head.flags !== 0)
      throw protocolError(`an answer whose head says flags 0x${head.flags.toString(16)} and ${head.size} bytes`, name)
    const result = new DataView(answer.buffer, answer.byteOffset).getBigInt64(HEAD_BYTES, true)
    if (result < -4095n || result > 0x7fff_ffffn) throw protocolError(`a result of ${result}`, name)
    return { result: Number(result), payload: answer.subarray(HEAD_BYTES + RESULT_BYTES) }
  }
}
