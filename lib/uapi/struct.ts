// C structs as values: a codec from a list of fields, laid out by the rules of the 64-bit little-endian Linux ABI. It knows no struct itself.

import { checkBytes, checkInteger, checkObject, rangeError, toU64, typeError } from '../base/checks.js'

/** One kind of field: its size and alignment in bytes, and how its value is read and written. */
export interface FieldType<T> {
  /** Bytes. */
  readonly size: number
  /** Bytes that its offset is a multiple of, unless the struct is packed or places it (`at`). */
  readonly align: number
  /** The value at `offset` of the view, which must be long enough. */
  read(view: DataView, offset: number): T
  /** Writes the value at `offset`. TypeError or RangeError naming the field when the value does not fit it. */
  write(view: DataView, offset: number, value: T, name: string): void
}

function integer(size: 1 | 2 | 4, signed: boolean): FieldType<number> {
  const bits = size * 8
  const [first, last] = signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1]
  const suffix = `${signed ? 'Int' : 'Uint'}${bits}` as 'Uint8'
  const [read, write] = [`get${suffix}`, `set${suffix}`] as const
  return {
    size,
    align: size,
    read: (view, offset) => (view[read] as (offset: number, littleEndian: boolean) => number).call(view, offset, true),
    write: (view, offset, value, name) => {
      checkInteger(value, name, first, last)
      ;(view[write] as (offset: number, value: number, littleEndian: boolean) => void).call(view, offset, value, true)
    },
  }
}

/** `__u8`: 0..255. A value that does not fit is a RangeError naming the field; as for the kinds below. */
export const u8 = integer(1, false)
/** `__u16` and `__le16`: 0..2^16-1. */
export const u16 = integer(2, false)
/** `__u32` and `__le32`: 0..2^32-1. */
export const u32 = integer(4, false)
/** `int` and `__s32`: -2^31..2^31-1. */
export const s32 = integer(4, true)

/** `__u64`: always a bigint when read; a safe integer number is accepted when written. */
export const u64: FieldType<bigint> = {
  size: 8,
  align: 8,
  read: (view, offset) => view.getBigUint64(offset, true),
  write: (view, offset, value, name) => view.setBigUint64(offset, toU64(value, name), true),
}

/** A fixed number of bytes, copied on both ways: an address, a name, a reserved area. */
export function bytes(length: number): FieldType<Uint8Array> {
  return {
    size: length,
    align: 1,
    read: (view, offset) => new Uint8Array(view.buffer, view.byteOffset + offset, length).slice(),
    write: (view, offset, value, name) => {
      checkBytes(value, name, length)
      new Uint8Array(view.buffer, view.byteOffset + offset, length).set(value)
    },
  }
}

/** A struct inside a struct. */
export function nested<T extends object>(codec: StructCodec<T>): FieldType<T> {
  checkObject(codec, 'codec')
  return {
    size: codec.size,
    align: codec.align,
    read: (view, offset) => codec.decode(new Uint8Array(view.buffer, view.byteOffset + offset, codec.size)),
    write: (view, offset, value) =>
      codec.encodeInto(value, new Uint8Array(view.buffer, view.byteOffset + offset, codec.size)),
  }
}

/** Where a field lies. Padding is not a field. */
export interface FieldLayout {
  /** The header's name of it. */
  readonly name: string
  /** Bytes from the start of the struct. */
  readonly offset: number
  /** Bytes. */
  readonly size: number
}

/** A C struct: its name in the header, its size and alignment in bytes, and the way between values and bytes. */
export interface StructCodec<T extends object> {
  /** The header's name, without `struct`; a scalar's C type. */
  readonly name: string
  /** sizeof, in bytes. Of the head only, where an array follows. */
  readonly size: number
  /** alignof, in bytes. */
  readonly align: number
  /** In the order of the declaration. */
  readonly fields: readonly FieldLayout[]
  /** A new buffer of `size` bytes; padding is zero. Throws a TypeError or RangeError that names struct and field. */
  encode(value: T): Uint8Array
  /** The same into `size` bytes at `offset` of a target; padding is left as it was. */
  encodeInto(value: T, target: Uint8Array, offset?: number): void
  /** Reads a value from the first `size` bytes at `offset`; longer input is allowed, shorter is a RangeError. */
  decode(source: Uint8Array, offset?: number): T
}

type Fields = Readonly<
  Record<string, FieldType<never> | FieldType<number> | FieldType<bigint> | FieldType<Uint8Array> | FieldType<object>>
>
type ValueOf<F> = F extends FieldType<infer T> ? T : never
/** The value of a struct with such fields. */
export type StructValue<F extends Fields> = { -readonly [K in keyof F]: ValueOf<F[K]> }
/** The value that a codec encodes. */
export type ValueOfCodec<C> = C extends StructCodec<infer T> ? T : never

/** How the compiler lays a struct out: `'packed'` structs have no holes and no alignment of their own. */
export interface StructOptions {
  /** True for `__attribute__((packed))`: each field follows the one before it at once. Default false. */
  readonly packed?: boolean
  /** The whole size where a union or a reserved tail makes it larger than the fields. */
  readonly size?: number
  /** The alignment where an array after the fields has a greater one. */
  readonly align?: number
  /** Fields whose place is not the next free one (members of a union). */
  readonly at?: Readonly<Record<string, number>>
}

/** Makes the codec of `struct <name>`. */
export function struct<F extends Fields>(
  name: string,
  fields: F,
  options: StructOptions = {},
): StructCodec<StructValue<F>> {
  checkObject(fields, 'fields')
  checkObject(options, 'options')
  const layout: { name: string; offset: number; size: number; type: FieldType<unknown> }[] = []
  let end = 0
  let align = options.align ?? 1
  for (const [fieldName, type] of Object.entries(fields)) {
    checkObject(type, `fields.${fieldName}`)
    const fieldAlign = options.packed === true ? 1 : type.align
    const offset = options.at?.[fieldName] ?? roundUp(end, fieldAlign)
    layout.push({ name: fieldName, offset, size: type.size, type: type })
    end = Math.max(end, offset + type.size)
    align = Math.max(align, fieldAlign)
  }
  const size = options.size ?? roundUp(end, align)

  function viewOf(area: Uint8Array, offset: number): DataView {
    if (area.byteLength - offset < size)
      throw rangeError(`struct ${name}`, `at least ${size} bytes long`, area.byteLength - offset)
    return new DataView(area.buffer, area.byteOffset + offset, size)
  }

  const codec: StructCodec<StructValue<F>> = {
    name,
    size,
    align,
    fields: layout.map(({ name, offset, size }) => ({ name, offset, size })),
    encode(value) {
      const result = new Uint8Array(size)
      codec.encodeInto(value, result)
      return result
    },
    encodeInto(value, target, offset = 0) {
      if (typeof value !== 'object' || value === null) throw typeError(`struct ${name}`, 'an object', value)
      const view = viewOf(target, offset)
      const values = value as Record<string, unknown>
      for (const field of layout) field.type.write(view, field.offset, values[field.name], `${name}.${field.name}`)
    },
    decode(source, offset = 0) {
      const view = viewOf(source, offset)
      const value: Record<string, unknown> = {}
      for (const field of layout) value[field.name] = field.type.read(view, field.offset)
      return value as StructValue<F>
    },
  }
  return codec
}

/** A request's argument that is one number, as a struct of one field named `value`. */
export function scalar<T extends number | bigint>(name: string, type: FieldType<T>): StructCodec<{ value: T }> {
  return struct(name, { value: type } as { value: FieldType<T> } & Fields)
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
