// Names in place of numbers that only one process knows: descriptors and addresses inside bytes. It makes recorded bytes portable and
// live again; which bytes are such numbers, it is told.

import { plainBytes } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'

/** A field of a call's bytes that holds a number of this process: a descriptor (4 bytes) or an address (8 bytes), little-endian. */
export interface LocalField {
  /** Bytes from the start. */
  readonly at: number
  /** 4 bytes, or 8. */
  readonly kind: 'fd' | 'address'
}

/**
 * Bytes as text that means the same in every process: hexadecimal digits, two a byte, with names in braces in place of local numbers.
 * `{e0}` is the descriptor of eventfd 0 (4 bytes), `{m0+0x1000}` an address in memory 0 (8 bytes): `"00000000{e0}"`.
 */
export type PortableBytes = string

/** A part of portable bytes: plain ones, or one name. */
export type Part = { readonly at: number; readonly length: number } & (
  { readonly bytes: Uint8Array } | { readonly name: string; readonly offset: bigint | undefined }
)

const grammar = /([0-9a-f]{2})+|\{([hmen]\d+)(?:\+0x([0-9a-f]{1,16}))?\}/gy

/** Takes portable bytes apart; undefined when they break the grammar. */
export function partsOf(text: PortableBytes): Part[] | undefined {
  const parts: Part[] = []
  let at = 0
  grammar.lastIndex = 0
  for (let from = 0; from < text.length; from = grammar.lastIndex) {
    const match = grammar.exec(text)
    if (match === null) return undefined
    const [whole, , name, offset] = match
    if (name === undefined) {
      const bytes = Uint8Array.from(Buffer.from(whole, 'hex'))
      parts.push({ at, length: bytes.length, bytes })
    } else {
      const isAddress = offset !== undefined
      parts.push({ at, length: isAddress ? 8 : 4, name, offset: isAddress ? BigInt(`0x${offset}`) : undefined })
    }
    at += parts.at(-1)?.length ?? 0
  }
  return parts
}

/** The first `length` bytes; a name that they would cut is left out. */
export function sliceOf(text: PortableBytes, length: number): PortableBytes {
  const whole = (partsOf(text) ?? []).filter(({ at }) => at < length)
  return whole
    .map((part) => {
      if ('bytes' in part) return Buffer.from(part.bytes.subarray(0, length - part.at)).toString('hex')
      return part.at + part.length > length ? '' : `{${nameOf(part)}}`
    })
    .join('')
}

function nameOf({ name, offset }: { readonly name: string; readonly offset: bigint | undefined }): string {
  return offset === undefined ? name : `${name}+0x${offset.toString(16)}`
}

/** How many bytes portable bytes stand for. */
export function lengthOf(text: PortableBytes): number {
  const last = partsOf(text)?.at(-1)
  return last === undefined ? 0 : last.at + last.length
}

/** Bytes with zeros in place of names, and the names by their place. */
export interface NamedBytes {
  /** All of them, names as zeros. */
  readonly bytes: Uint8Array
  /** What stands in braces, by the offset of its first byte. */
  readonly names: ReadonlyMap<number, string>
}

/** Reads portable bytes without knowing what the names stand for. */
export function readPortable(text: PortableBytes): NamedBytes {
  const bytes = new Uint8Array(lengthOf(text))
  const names = new Map<number, string>()
  for (const part of partsOf(text) ?? []) {
    if ('bytes' in part) bytes.set(part.bytes, part.at)
    else names.set(part.at, nameOf(part))
  }
  return { bytes, names }
}

interface Local {
  readonly fds: readonly number[]
  readonly address: bigint | undefined
  readonly length: bigint
  isClosed: boolean
}

/** What objects of a process are called, and back. A closed object keeps its name until a living one has its number. */
export class Symbols {
  readonly #locals = new Map<string, Local>()

  /** `fds`: the object's own descriptor first, then others that mean the same. */
  add(
    name: string,
    numbers: { readonly fds: readonly number[]; readonly address?: bigint; readonly length?: number },
  ): void {
    const { fds, address, length = 0 } = numbers
    this.#locals.set(name, { fds, address, length: BigInt(length), isClosed: false })
  }

  /** The object was closed: its numbers may be another's from now on. */
  close(name: string): void {
    const local = this.#locals.get(name)
    if (local !== undefined) local.isClosed = true
  }

  /** The text of live bytes. A field that no object answers for, such as -1, stays a number. */
  toPortable(bytes: Uint8Array, fields: readonly LocalField[]): PortableBytes {
    // A copy: the caller may have given his memory away while the call was under way.
    const own = plainBytes(bytes, 'bytes').slice()
    const hex = Buffer.from(own.buffer).toString('hex')
    const view = new DataView(own.buffer)
    let text = ''
    let done = 0
    for (const { at, kind } of fields) {
      const size = kind === 'fd' ? 4 : 8
      if (at + size > own.length) continue
      const name =
        kind === 'fd' ? this.#nameOfFd(view.getInt32(at, true)) : this.#nameOfAddress(view.getBigUint64(at, true))
      if (name === undefined) continue
      text += `${hex.slice(done * 2, at * 2)}{${name}}`
      done = at + size
    }
    return text + hex.slice(done * 2)
  }

  /** Live bytes of a text, with the numbers of this process. Throws ERR_VDPA_TRACE for a name that nothing has, or a broken text. */
  toLive(text: PortableBytes): Uint8Array {
    const parts = partsOf(text)
    if (parts === undefined) throw vdpaError('ERR_VDPA_TRACE', `not bytes of a trace: ${JSON.stringify(text)}`)
    const bytes = new Uint8Array(lengthOf(text))
    const view = new DataView(bytes.buffer)
    for (const part of parts) {
      if ('bytes' in part) bytes.set(part.bytes, part.at)
      else if (part.offset === undefined) view.setInt32(part.at, this.#fdOf(part.name), true)
      else view.setBigUint64(part.at, BigInt.asUintN(64, this.#addressOf(part.name) + part.offset), true)
    }
    return bytes
  }

  #fdOf(name: string): number {
    const fd = this.#locals.get(name)?.fds[0]
    if (fd === undefined) throw vdpaError('ERR_VDPA_TRACE', `nothing here is called ${name} and has a descriptor`)
    return fd
  }

  #addressOf(name: string): bigint {
    const address = this.#locals.get(name)?.address
    if (address === undefined) throw vdpaError('ERR_VDPA_TRACE', `nothing here is called ${name} and has an address`)
    return address
  }

  #nameOfFd(fd: number): string | undefined {
    return fd < 0 ? undefined : this.#find((local) => local.fds.includes(fd))?.[0]
  }

  #nameOfAddress(address: bigint): string | undefined {
    const found = this.#find(
      (local) => local.address !== undefined && address >= local.address && address < local.address + local.length,
    )
    return found && `${found[0]}+0x${(address - (found[1].address ?? 0n)).toString(16)}`
  }

  /** Living objects before closed ones, newest first. */
  #find(has: (local: Local) => boolean): readonly [string, Local] | undefined {
    const candidates = [...this.#locals].filter(([, local]) => has(local)).reverse()
    return candidates.find(([, local]) => !local.isClosed) ?? candidates[0]
  }
}
