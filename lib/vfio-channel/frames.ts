// A region's calls on a socket: frames of 16 bytes and a payload, each answered by one. Our own framing: the drafts knew no sockets.

import { FramedStream } from '../backend/framed-stream.js'
import type { StreamSocket } from '../backend/sockets.js'
import { u32, u64, struct } from '../uapi/struct.js'
import { HEAD_BYTES } from './codec.js'
import { protocolError } from './refusal.js'
import { RESULT_BYTES, TODAY_PAYLOAD_LAST } from './today.js'

/** The head of a frame. `value` is the offset, the vector or the address; in an answer the result as s64, which is a negative errno for a refusal. */
export const frameHead = struct('channel_frame', { kind: u32, size: u32, value: u64 })

/** What a frame asks; `REPLY` answers the oldest that has none. */
export const frameKinds = { PREAD: 1, PWRITE: 2, REPLY: 3, SET_INTERRUPT: 4, MAP_DMA: 6, UNMAP_DMA: 7 } as const
const KIND_LAST = 7

/** Bytes of payload: the longest message, or the longest answer. */
export const FRAME_PAYLOAD_LAST = HEAD_BYTES + RESULT_BYTES + TODAY_PAYLOAD_LAST

/** A frame whose head could be understood. */
export interface Frame {
  readonly kind: number
  readonly size: number
  readonly value: bigint
}

/** A frame as bytes. */
export function encodeFrame(kind: number, value: bigint, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const frame = new Uint8Array(frameHead.size + payload.byteLength)
  frameHead.encodeInto({ kind, size: payload.byteLength, value: BigInt.asUintN(64, value) }, frame)
  frame.set(payload, frameHead.size)
  return frame
}

/** Understands a head. ERR_VDPA_PROTOCOL: what follows cannot be understood either. */
export function decodeFrame(bytes: Uint8Array): Frame {
  const frame = frameHead.decode(bytes)
  if (frame.kind === 0 || frame.kind > KIND_LAST) throw protocolError(`a frame of kind ${frame.kind}`)
  if (frame.size > FRAME_PAYLOAD_LAST)
    throw protocolError(`a frame of ${frame.size} bytes, and ${FRAME_PAYLOAD_LAST} are the most`)
  return frame
}

/** Frames from a socket; `files` is how many descriptors may come with one. */
export function frameReader(socket: StreamSocket, peer: string, files: number): FramedStream<Frame> {
  return new FramedStream(socket, {
    headBytes: frameHead.size,
    payloadLast: FRAME_PAYLOAD_LAST,
    filesLast: files,
    decode: decodeFrame,
    nameOf: ({ kind }) => `a frame of kind ${kind}`,
    peer,
  })
}
