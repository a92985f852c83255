// Frames for the data path's suites: numbered ones of an experimental type, which nobody answers, and UDP datagrams, which Linux hands to a socket.

/** The MAC addresses of a frame, as `02:11:22:33:44:55`. */
export interface Addresses {
  readonly from: string
  readonly to: string
}

const HEADERS = 14 + 20 + 8

export function macBytes(mac: string): number[] {
  return mac.split(':').map((part) => parseInt(part, 16))
}

/** A frame that carries a number and is filled with its low byte, of type 0x88b5 (local experiments). */
export function numberedFrame({ from, to }: Addresses, number: number, length = 64): Uint8Array {
  const frame = new Uint8Array(length).fill(number & 0xff)
  frame.set([...macBytes(to), ...macBytes(from), 0x88, 0xb5])
  new DataView(frame.buffer).setUint32(14, number)
  return frame
}

/** The number of such a frame; undefined for any other. */
export function frameNumber(frame: Uint8Array): number | undefined {
  if (frame.byteLength < 18 || frame[12] !== 0x88 || frame[13] !== 0xb5) return undefined
  return new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint32(14)
}

/** A UDP datagram in IPv4 in Ethernet. */
export function udpFrame(macs: Addresses, ip: Addresses, port: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(HEADERS + payload.byteLength)
  const view = new DataView(frame.buffer)
  frame.set([...macBytes(macs.to), ...macBytes(macs.from), 0x08, 0x00])
  view.setUint8(14, 0x45)
  view.setUint16(16, frame.byteLength - 14)
  view.setUint8(22, 64)
  view.setUint8(23, 17)
  frame.set(ip.from.split('.').map(Number), 26)
  frame.set(ip.to.split('.').map(Number), 30)
  let sum = 0
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  view.setUint16(24, ~sum & 0xffff)
  view.setUint16(34, port)
  view.setUint16(36, port)
  // No checksum (0): IPv4 allows it.
  view.setUint16(38, 8 + payload.byteLength)
  frame.set(payload, HEADERS)
  return frame
}

/** What a UDP datagram to `port` carries; undefined for any other frame. */
export function udpPayload(frame: Uint8Array, port: number): Uint8Array | undefined {
  if (frame.byteLength < HEADERS) return undefined
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  if (view.getUint16(12) !== 0x0800 || frame[23] !== 17 || view.getUint16(36) !== port) return undefined
  return frame.slice(HEADERS, 34 + view.getUint16(38))
}
