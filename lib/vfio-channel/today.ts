// What was put on top of the drafts, so that a channel carries all of vhost-vdpa: every request by its number, answered with a result; IOTLB messages; vectors for
// all interrupts.

import { HEAD_BYTES } from './codec.js'
import { requests } from '../uapi/vhost.js'

/** Bytes of payload of any message. */
export const TODAY_PAYLOAD_LAST = 8192

/** The request that carries IOTLB messages: past the numbers that ioctl(2) has. */
export const WRITE_IOTLB = 0x1_0000_0000n

/** Bytes of an IOTLB message. */
export const IOTLB_BYTES = 72
/** IOTLB messages in one. */
export const IOTLB_LAST = Math.floor(TODAY_PAYLOAD_LAST / IOTLB_BYTES)

/** Bytes before the argument in an answer: a result as s64, which is a negative errno for a refusal. */
export const RESULT_BYTES = 8

/** Bytes of the answer to IOTLB messages that say how many were taken. */
export const COUNT_BYTES = 8

/** Bytes of the answer to a request whose argument has so many. */
export function answerBytes(argument: number): number {
  return HEAD_BYTES + RESULT_BYTES + argument
}

/** Vectors: of a queue's interrupts, of a queue's errors, of the configuration. */
export const vectors = { call: 0, error: 0x1_0000, config: 0x2_0000 } as const

/** Requests that name an eventfd: where in the argument its descriptor is, and what it is for. */
export const eventfdRequests: ReadonlyMap<
  number,
  { readonly at: number; readonly role: 'kick' | keyof typeof vectors }
> = new Map([
  [requests.VHOST_SET_VRING_KICK.number, { at: 4, role: 'kick' }],
  [requests.VHOST_SET_VRING_CALL.number, { at: 4, role: 'call' }],
  [requests.VHOST_SET_VRING_ERR.number, { at: 4, role: 'error' }],
  [requests.VHOST_VDPA_SET_CONFIG_CALL.number, { at: 0, role: 'config' }],
])
