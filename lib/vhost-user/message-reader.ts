// Whole messages of a front end from its socket: 12 bytes, then exactly as many as they say.

import { FramedStream, type Framed } from '../backend/framed-stream.js'
import type { StreamSocket } from '../backend/sockets.js'
import { decodeHeader, HEADER_BYTES, PAYLOAD_LAST, requestName, type MessageHeader } from './codec.js'

/** The most descriptors of a message that any front end sends. */
const FILES_LAST = 32

/** A message with all its bytes and descriptors, which are now the taker's. */
export type Message = Framed<MessageHeader>
/** Reads one socket. */
export type MessageReader = FramedStream<MessageHeader>

/** A reader of a front end's socket. */
export function messageReader(socket: StreamSocket): MessageReader {
  return new FramedStream(socket, {
    headBytes: HEADER_BYTES,
    payloadLast: PAYLOAD_LAST,
    filesLast: FILES_LAST,
    decode: decodeHeader,
    nameOf: ({ request }) => requestName(request),
    peer: 'the front end',
  })
}
