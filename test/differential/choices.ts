// What steps choose from: indexes, numbers, addresses, words of features, good ones first and bad ones behind, so that shrinking ends at the good.

import type { FdName } from './world.js'

/** Numbers of a step, used up one choice after another. The same numbers give the same step on every backend. */
export class Choices {
  readonly #words: number[]
  #next = 0

  constructor(words: readonly number[]) {
    this.#words = [...words]
  }

  below(count: number): number {
    const at = this.#next++ % this.#words.length
    const word = this.#words[at] ?? 0
    this.#words[at] = Math.floor(word / count)
    return word % count
  }

  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T
  }
}

export const indexes: readonly number[] = [0, 0, 0, 1, 1, 2, 2, 3, 99, 0xffff_ffff, 0x8000_0000]

export const fds: readonly FdName[] = ['none', 'e0', 'e0', 'e1', 'closed', 'negative', 'node']

/** Status bytes: the usual ones, the unusual, and those with NEEDS_RESET, FAILED, or bits that nobody gave a meaning. */
export const statuses: readonly number[] = [
  0, 1, 3, 3, 11, 11, 11, 15, 15, 15, 15, 7, 4, 8, 2, 5, 9, 13, 0x4f, 0x8f, 0x1f, 0x2f, 0x40, 0x80, 0xff,
]

/** Words of features, low half and high half: what vdpa_sim_net and vdpa_sim_blk offer, parts of it, and more than that. */
export const features: readonly (readonly [low: number, high: number])[] = [
  [0x0883_0028, 0x3],
  [0x0800_7646, 0x3],
  [0, 0x3],
  [0, 0x1],
  [0, 0x2],
  [0, 0],
  [0x0002_0000, 0x3],
  [0x0883_0028, 0x1],
  [0x0883_0028, 0x7],
  [0x2883_0028, 0x3],
  [0x0001_0000, 0x3],
  [0xffff_ffff, 0xffff_ffff],
  [0, 0x8000_0003],
]

/** Backend features: all that there are, parts, and sets that are refused. */
export const backendFeatures: readonly number[] = [
  0x17e, 0x17e, 0x17e, 0x7e, 0x0e, 0x06, 0x00, 0x08, 0x1fe, 0x80, 0x88, 0x90, 0x01, 0x200, 0x108, 0x100, 0x40, 0x10,
  0x20,
]

export const ringSizes: readonly number[] = [16, 256, 1, 2, 0, 3, 255, 257, 512, 0x8000, 0x1_0000, 0xffff_ffff]
export const bases: readonly number[] = [0, 1, 7, 16, 0x7fff, 0xffff, 0x1_0000, 0x8000_8000, 0xffff_ffff]
export const switches: readonly number[] = [1, 0, 2, 0xffff_ffff]
export const asids: readonly number[] = [0, 0, 0, 1, 1, 2, 9, 0xffff_ffff]

/** 64-bit numbers as halves. */
export type Halves = readonly [low: number, high: number]

export const ringAddresses: readonly Halves[] = [
  [0, 0],
  [0x1000, 0],
  [0x2000, 0],
  [0x3000, 0],
  [0x1001, 0],
  [0x1002, 0],
  [0x1004, 0],
  [0x1008, 0],
  [0xffff_f000, 0xffff_ffff],
  [0xffff_ffff, 0xffff_ffff],
]

export const logAddresses: readonly Halves[] = [
  [0, 0],
  [0, 0],
  [0, 0],
  [4, 0],
  [2, 0],
  [1, 0],
]

export const iovas: readonly Halves[] = [
  [0, 0],
  [0x1000, 0],
  [0x2000, 0],
  [0x3000, 0],
  [0x8000, 0],
  [0x800, 0],
  [0x123, 0],
  [0xffff_f000, 0],
  [0, 1],
  [0, 0x8000_0000],
  [0xffff_f000, 0xffff_ffff],
  [0xffff_ffff, 0xffff_ffff],
]

export const sizes: readonly Halves[] = [
  [0x1000, 0],
  [0x1000, 0],
  [0x2000, 0],
  [0x4000, 0],
  [0x800, 0],
  [1, 0],
  [0, 0],
  [0x8000, 0],
  [0, 0x8000_0000],
  [0xffff_f000, 0xffff_ffff],
  [0xffff_ffff, 0xffff_ffff],
]

export const perms: readonly number[] = [3, 3, 1, 2, 0, 4, 7, 255]
/** UPDATE, INVALIDATE, BATCH_BEGIN, BATCH_END, MISS, ACCESS_FAIL, and what is no type. */
export const messageTypes: readonly number[] = [2, 2, 2, 2, 2, 3, 3, 5, 6, 1, 4, 0, 7, 255]
/** Version 2, version 1, and what is neither. */
export const recordTypes: readonly number[] = [2, 2, 2, 2, 2, 2, 1, 1, 0, 3, 0xffff_ffff]
/** Bytes that are written: a whole record, what the kernel reads of it, too few, and too many. */
export const writeLengths: readonly number[] = [72, 72, 72, 72, 72, 40, 39, 64, 3, 0, 73, 144]
