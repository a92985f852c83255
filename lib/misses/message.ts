// The records that a vhost device with an IOTLB is read from and written to, one at a time. Longer sequences are iotlb/message.ts.

import { checkBytes } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { accessOf, permOf, type Access } from '../iotlb/mapping.js'
import { RECORD_BYTES } from '../iotlb/message.js'
import { iotlbMessageTypes, vhostAccess, vhostMessageTypes } from '../uapi/vhost-types.js'

/** Whether records are `struct vhost_msg` or `struct vhost_msg_v2`: the second where VHOST_BACKEND_F_IOTLB_MSG_V2 was acknowledged. */
export type RecordVersion = 1 | 2

/** What a device says of an address: it has no translation, or the one that it has does not allow the access. */
export interface MissMessage {
  /** `'miss'` wants an answer; `'access-fail'` wants none (the kernel knows the word and never sends it). */
  readonly kind: 'miss' | 'access-fail'
  /** How the record was written. */
  readonly version: RecordVersion
  /** 0 in version 1. */
  readonly asid: number
  /** The address of the first byte that was wanted. */
  readonly iova: bigint
  /** What the device was about to do. */
  readonly access: Access
}

// struct vhost_msg and vhost_msg_v2, which have the same places; checked against the codecs of uapi/ by a test.
const ASID_AT = 4
const IOVA_AT = 8
const SIZE_AT = 16
const UADDR_AT = 24
const PERM_AT = 32
const TYPE_AT = 33

const { VHOST_IOTLB_MSG, VHOST_IOTLB_MSG_V2 } = vhostMessageTypes
const { VHOST_IOTLB_MISS, VHOST_IOTLB_ACCESS_FAIL, VHOST_IOTLB_UPDATE, VHOST_IOTLB_INVALIDATE } = iotlbMessageTypes

/** Reads records, of one array again and again. */
export class RecordReader {
  #bytes: Uint8Array | undefined
  #view: DataView = new DataView(new ArrayBuffer(RECORD_BYTES))

  /** As decodeMiss(). */
  miss(bytes: Uint8Array): MissMessage {
    checkBytes(bytes, 'bytes')
    if (bytes.length < RECORD_BYTES) throw odd(`${bytes.length} bytes, and not ${RECORD_BYTES}`)
    const view = this.#viewOf(bytes)
    const message = view.getUint32(0, true)
    if (message !== VHOST_IOTLB_MSG && message !== VHOST_IOTLB_MSG_V2) throw odd(`a record of type ${message}`)
    const type = view.getUint8(TYPE_AT)
    if (type !== VHOST_IOTLB_MISS && type !== VHOST_IOTLB_ACCESS_FAIL) throw odd(`an IOTLB message of type ${type}`)
    const perm = view.getUint8(PERM_AT)
    if (perm < vhostAccess.VHOST_ACCESS_RO || perm > vhostAccess.VHOST_ACCESS_RW) throw odd(`an access of ${perm}`)
    const version = message === VHOST_IOTLB_MSG ? 1 : 2
    return {
      kind: type === VHOST_IOTLB_MISS ? 'miss' : 'access-fail',
      version,
      asid: version === 1 ? 0 : view.getUint32(ASID_AT, true),
      iova: view.getBigUint64(IOVA_AT, true),
      access: accessOf(perm),
    }
  }

  #viewOf(bytes: Uint8Array): DataView {
    if (bytes !== this.#bytes) {
      this.#view = new DataView(bytes.buffer, bytes.byteOffset, RECORD_BYTES)
      this.#bytes = bytes
    }
    return this.#view
  }
}

/** Reads a record. ERR_VDPA_PROTOCOL, with what was found, for bytes that are none, whatever they are. */
export function decodeMiss(bytes: Uint8Array): MissMessage {
  return new RecordReader().miss(bytes)
}

function odd(what: string): VdpaError {
  return vdpaError('ERR_VDPA_PROTOCOL', `the device was read, and gave ${what}`)
}

/** Writes records into one buffer, again and again: a record is valid until the next one. */
export class RecordWriter {
  readonly #bytes = new Uint8Array(RECORD_BYTES)
  readonly #view = new DataView(this.#bytes.buffer)

  /** A translation (VHOST_IOTLB_UPDATE). */
  update(version: RecordVersion, asid: number, { iova, size, uaddr, access }: UpdateFields): Uint8Array {
    return this.#record(version, asid, { iova, size, uaddr, perm: permOf(access), type: VHOST_IOTLB_UPDATE })
  }

  /** Takes away what overlaps a range (VHOST_IOTLB_INVALIDATE). `size` is not 0, which kernels read differently. */
  invalidate(version: RecordVersion, asid: number, iova: bigint, size: bigint): Uint8Array {
    return this.#record(version, asid, { iova, size, uaddr: 0n, perm: 0, type: VHOST_IOTLB_INVALIDATE })
  }

  #record(
    version: RecordVersion,
    asid: number,
    fields: Omit<UpdateFields, 'access'> & { readonly perm: number; readonly type: number },
  ): Uint8Array {
    const view = this.#view
    view.setUint32(0, version === 1 ? VHOST_IOTLB_MSG : VHOST_IOTLB_MSG_V2, true)
    view.setUint32(ASID_AT, version === 1 ? 0 : asid, true)
    view.setBigUint64(IOVA_AT, fields.iova, true)
    view.setBigUint64(SIZE_AT, fields.size, true)
    view.setBigUint64(UADDR_AT, fields.uaddr, true)
    view.setUint8(PERM_AT, fields.perm)
    view.setUint8(TYPE_AT, fields.type)
    return this.#bytes
  }
}

interface UpdateFields {
  readonly iova: bigint
  readonly size: bigint
  readonly uaddr: bigint
  readonly access: Access
}
