// One IOTLB message of a trace: its name and the addresses that it speaks of.

import { iotlbMessageOf } from '../backend/local-fields.js'
import type { StructCodec } from '../uapi/struct.js'
import { vhostMsg, vhostMsgV2 } from '../uapi/vhost-types.js'

/** What a record says. */
export interface IotlbRecord {
  /** The kernel's name of its type. */
  readonly name: string
  /** The first address. */
  readonly iova: bigint
  /** Bytes from there. */
  readonly size: bigint
}

/** Reads a record; undefined where it is none, or of no type that is known. */
export function iotlbRecord(bytes: Uint8Array): IotlbRecord | undefined {
  const message = iotlbMessageOf(bytes)
  if (message?.name === undefined || bytes.length < vhostMsgV2.size) return undefined
  const codec: StructCodec<{ readonly iova: bigint; readonly size: bigint }> =
    message.version === 1 ? vhostMsg : vhostMsgV2
  const { iova, size } = codec.decode(bytes)
  return { name: message.name, iova, size }
}
