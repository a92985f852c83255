// What the tests of the vocabulary share: every struct codec of lib/uapi, found rather than listed.

import * as uapi from '../../lib/uapi/index'

function isCodec(value: unknown): value is uapi.StructCodec<object> {
  return typeof value === 'object' && value !== null && 'encodeInto' in value && 'fields' in value
}

/** Every codec that lib/uapi exports, those of single numbers too. */
export const codecs: readonly uapi.StructCodec<object>[] = (Object.values(uapi) as readonly unknown[]).filter(isCodec)

/** `0102…` as bytes; blanks are ignored. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'))
}
