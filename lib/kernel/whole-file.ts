// Whether a file of native code is whole. The system's loader maps its parts as its head says, and touches them: where a copy was cut short it is the process that ends
// (SIGBUS), and not the loading. Anything else that is wrong with a file is refused by the loader itself.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

/** `\x7fELF`, 64 bits, little-endian: what each processor of a prebuilt addon has. */
const IDENTITY = Buffer.from('\x7fELF\x02\x01', 'latin1')
const HEAD_BYTES = 64
const PART_BYTES = 56
/** Parts of a shared object: ten or so. */
const PARTS_MOST = 128
const PT_LOAD = 1

/** How many bytes a file has and how many its head tells of, where it has fewer; undefined for a file that is whole, is none of these, or cannot be read. */
export function missingBytes(path: string): { readonly has: number; readonly needs: bigint } | undefined {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch {
    return undefined
  }
  try {
    const { size } = fstatSync(fd)
    const needs = neededBytes(fd)
    return needs !== undefined && BigInt(size) < needs ? { has: size, needs } : undefined
  } catch {
    return undefined
  } finally {
    closeSync(fd)
  }
}

/** Where the last byte that is mapped lies (`Elf64_Ehdr`, `Elf64_Phdr`). The table of the parts is needed, too. */
function neededBytes(fd: number): bigint | undefined {
  const head = Buffer.alloc(HEAD_BYTES)
  if (readSync(fd, head, 0, HEAD_BYTES, 0) < IDENTITY.length || !head.subarray(0, IDENTITY.length).equals(IDENTITY))
    return undefined
  const start = head.readBigUInt64LE(32)
  const count = Math.min(head.readUInt16LE(56), PARTS_MOST)
  const parts = Buffer.alloc(count * PART_BYTES)
  let needs = start + BigInt(parts.length)
  if (start > BigInt(Number.MAX_SAFE_INTEGER) || readSync(fd, parts, 0, parts.length, Number(start)) < parts.length)
    return needs
  for (let at = 0; at < parts.length; at += PART_BYTES) {
    const end = parts.readBigUInt64LE(at + 8) + parts.readBigUInt64LE(at + 32)
    if (parts.readUInt32LE(at) === PT_LOAD && end > needs) needs = end
  }
  return needs
}
