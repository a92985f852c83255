// The few kinds of protobuf fields that a trace packet needs, written: varints, fixed 64-bit numbers, text, and messages in messages. It reads none.

/** One field on the wire. */
export type Field = readonly Uint8Array[]

/** A tag and a varint: uint64, int64 that is not negative, an enum's number. */
export function varint(field: number, value: number | bigint): Field {
  return [varintBytes((field << 3) | 0), varintBytes(value)]
}

/** A tag and 8 bytes. */
export function fixed64(field: number, value: number | bigint): Field {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
  return [varintBytes((field << 3) | 1), bytes]
}

/** A tag, a length and UTF-8. */
export function text(field: number, value: string): Field {
  return delimited(field, new TextEncoder().encode(value))
}

/** A tag, a length and the fields of a message. */
export function message(field: number, ...fields: readonly Field[]): Field {
  return delimited(field, bytesOfFields(fields))
}

/** Fields one after another. */
export function bytesOfFields(fields: readonly Field[]): Uint8Array {
  return Buffer.concat(fields.flat())
}

function delimited(field: number, bytes: Uint8Array): Field {
  return [varintBytes((field << 3) | 2), varintBytes(bytes.length), bytes]
}

function varintBytes(value: number | bigint): Uint8Array {
  const bytes: number[] = []
  for (let rest = BigInt(value); ; rest >>= 7n) {
    const low = Number(rest & 0x7fn)
    if (rest < 0x80n) return Uint8Array.from([...bytes, low])
    bytes.push(low | 0x80)
  }
}
