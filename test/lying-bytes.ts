// Arrays that say something else of themselves than they are: a subclass, a property that was put on an array, memory that went.

/** The array says `length` of itself, by the property that it is asked most. */
export function withLength(bytes: Uint8Array, length: number): Uint8Array {
  for (const name of ['length', 'byteLength']) Object.defineProperty(bytes, name, { value: length })
  return bytes
}

/** An array of a subclass whose every word of itself is a lie. */
export function liar(length: number, said: number): Uint8Array {
  class Liar extends Uint8Array {
    override get length(): number {
      return said
    }
    override get byteLength(): number {
      return said
    }
    override get byteOffset(): number {
      return 0
    }
    override set(): void {
      throw new Error('set() of a subclass was called')
    }
    override slice(): never {
      throw new Error('slice() of a subclass was called')
    }
    override subarray(): never {
      throw new Error('subarray() of a subclass was called')
    }
    override *[Symbol.iterator](): ArrayIterator<number> {
      yield* []
    }
  }
  return new Liar(length)
}

/** The array's memory goes to somebody else; the array still says that it has it. */
export function emptied(bytes: Uint8Array): Uint8Array {
  const { buffer, length } = bytes
  structuredClone(buffer, { transfer: [buffer as ArrayBuffer] })
  return withLength(bytes, length)
}

type ResizableBuffer = ArrayBuffer & { resize(length: number): void }

const Resizable = ArrayBuffer as unknown as new (length: number, options: { maxByteLength: number }) => ResizableBuffer

/** An array on a buffer that is made shorter by `shrink`. */
export function shrinking(length: number): { bytes: Uint8Array; shrink: (left: number) => void } {
  const buffer = new Resizable(length, { maxByteLength: length })
  return { bytes: new Uint8Array(buffer, 0, length), shrink: (left) => buffer.resize(left) }
}

/** An array that is always as long as its buffer, which `grow` makes longer. */
export function growing(length: number, most: number): { bytes: Uint8Array; grow: () => void } {
  const buffer = new Resizable(length, { maxByteLength: most })
  return { bytes: new Uint8Array(buffer), grow: () => buffer.resize(most) }
}
