// Argument checks, all in one sentence grammar: `<name> must be <what> (got <value>)`. Misuse is a TypeError or a RangeError with Node's code.

/** How a value is shown in a sentence: short, and never throwing. */
export function show(value: unknown): string {
  if (typeof value === 'bigint') return value < 0x1000n && value > -0x1000n ? `${value}n` : hexadecimal(value)
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return kindOf(value)
  return String(value)
}

/** An object by what made it; objects of the program may throw when they are looked at. */
function kindOf(value: object): string {
  try {
    const name: unknown = value.constructor?.name
    return typeof name === 'string' && name !== '' ? `a ${name}` : 'a plain object'
  } catch {
    return 'an object that cannot be looked at'
  }
}

function hexadecimal(value: bigint): string {
  return value < 0n ? `-0x${(-value).toString(16)}n` : `0x${value.toString(16)}n`
}

function withCode<E extends Error>(error: E, code: string): E {
  return Object.assign(error, { code })
}

/** Misuse by kind, in the one grammar: `name must be what (got …)`. Its `code` is Node's `'ERR_INVALID_ARG_TYPE'`. */
export function typeError(name: string, what: string, value: unknown): TypeError {
  return withCode(new TypeError(`${name} must be ${what} (got ${show(value)})`), 'ERR_INVALID_ARG_TYPE')
}

/** Misuse by value, in the same grammar. Its `code` is Node's `'ERR_OUT_OF_RANGE'`. */
export function rangeError(name: string, what: string, value: unknown): RangeError {
  return withCode(new RangeError(`${name} must be ${what} (got ${show(value)})`), 'ERR_OUT_OF_RANGE')
}

/** An integer number from `first` to `last`, both included. */
export function checkInteger(value: unknown, name: string, first: number, last: number): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < first || (value as number) > last)
    throw notInteger(value, name, first, last)
}

/** Apart from the check, which is then short enough for the compiler to inline. */
function notInteger(value: unknown, name: string, first: number, last: number): Error {
  const makeError = typeof value === 'number' ? rangeError : typeError
  return makeError(name, `an integer from ${first} to ${last}`, value)
}

const u64Last = 0xffff_ffff_ffff_ffffn

/** A `__u64`: a bigint, or a safe integer number where that loses nothing. Returns it as bigint. */
export function toU64(value: unknown, name: string): bigint {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0)
      throw rangeError(name, 'a bigint, or an integer from 0 to 2^53-1', value)
    return BigInt(value)
  }
  if (typeof value !== 'bigint') throw typeError(name, 'a bigint', value)
  if (value < 0n || value > u64Last) throw rangeError(name, 'from 0 to 2^64-1', value)
  return value
}

/** A bigint of any size; a number in its place is a TypeError, because it may have lost digits already. */
export function checkBigint(value: unknown, name: string): asserts value is bigint {
  if (typeof value !== 'bigint') throw typeError(name, 'a bigint', value)
}

/** The tag recognises arrays of another realm, but takes longer than a system call; `instanceof` is enough for our own. */
function isUint8Array(value: unknown): value is Uint8Array {
  if (!ArrayBuffer.isView(value)) return false
  return value instanceof Uint8Array || Object.prototype.toString.call(value) === '[object Uint8Array]'
}

/** A Uint8Array (a Buffer is one), also of another realm; of exactly `length` bytes where that is given. */
export function checkBytes(value: unknown, name: string, length?: number): asserts value is Uint8Array {
  if (!isUint8Array(value) || (length !== undefined && trueLength(value) !== length))
    throw notBytes(value, name, length)
}

function notBytes(value: unknown, name: string, length: number | undefined): Error {
  if (isUint8Array(value)) return rangeError(name, `${length} bytes long`, trueLength(value))
  return typeError(name, length === undefined ? 'a Uint8Array' : `a Uint8Array of ${length} bytes`, value)
}

const typedArray = Object.getPrototypeOf(Uint8Array.prototype) as object

/** The getter itself: called so, the compiler makes of it what it makes of `length`. */
const { get: lengthOf } = Object.getOwnPropertyDescriptor(typedArray, 'length') as {
  readonly get: (this: Uint8Array) => number
}

/** How many bytes an array has, whatever a subclass, or a property that was put on it, says. 0 where its memory is gone. */
export function trueLength(bytes: Uint8Array): number {
  return lengthOf.call(bytes)
}

/** At least so many bytes. The last of them is looked at, which is as fast as a length that may lie, and true. */
export function checkBytesLong(bytes: Uint8Array, name: string, length: number): void {
  if (length > 0 && bytes[length - 1] === undefined)
    throw rangeError(name, `at least ${length} bytes long`, trueLength(bytes))
}

/**
 * The bytes of a Uint8Array as a plain one whose length stays: for calls that take time. What a subclass says of itself does not count, and where the memory goes
 * meanwhile (transferred, or a buffer that was made shorter) the length is 0.
 */
export function plainBytes(value: unknown, name: string): Uint8Array {
  checkBytes(value, name)
  const own = (property: 'buffer' | 'byteOffset' | 'length'): unknown => Reflect.get(typedArray, property, value)
  const length = own('length') as number
  return length === 0
    ? new Uint8Array(0)
    : new Uint8Array(own('buffer') as ArrayBuffer, own('byteOffset') as number, length)
}

/** A string that is not empty and has no NUL, which would end it for the kernel. */
export function checkString(value: unknown, name: string): asserts value is string {
  if (typeof value !== 'string') throw typeError(name, 'a string', value)
  if (value === '' || value.includes('\0')) throw rangeError(name, 'a string that is not empty and has no NUL', value)
}

/** An object, such as options. */
export function checkObject(value: unknown, name: string): asserts value is object {
  if (typeof value !== 'object' || value === null) throw typeError(name, 'an object', value)
}

/** An array. */
export function checkArray(value: unknown, name: string): asserts value is readonly unknown[] {
  if (!Array.isArray(value)) throw typeError(name, 'an array', value)
}

/** Plain data, as far as whoever takes it must know: an object whose `lists` are arrays. */
export function checkData(value: unknown, name: string, lists: readonly string[]): void {
  checkObject(value, name)
  for (const list of lists) checkArray((value as Readonly<Record<string, unknown>>)[list], `${name}.${list}`)
}

/** True or false. */
export function checkBoolean(value: unknown, name: string): asserts value is boolean {
  if (typeof value !== 'boolean') throw typeError(name, 'a boolean', value)
}

/** An object with all of these methods, `what` in words: objects of another copy of this package have them as well. */
export function checkMethods(value: unknown, name: string, what: string, methods: readonly string[]): void {
  const it = value as Readonly<Record<string, unknown>> | null
  if (typeof value !== 'object' || methods.some((method) => typeof it?.[method] !== 'function'))
    throw typeError(name, what, value)
}

/** A function. */
export function checkFunction(value: unknown, name: string): void {
  if (typeof value !== 'function') throw typeError(name, 'a function', value)
}

/** One of a few strings. */
export function checkOneOf<T extends string>(value: unknown, name: string, allowed: readonly T[]): asserts value is T {
  if (!allowed.includes(value as T)) throw rangeError(name, `one of ${allowed.map((a) => `'${a}'`).join(', ')}`, value)
}

/** An AbortSignal, of whichever realm; undefined is no signal. */
export function checkSignal(value: unknown, name = 'signal'): asserts value is AbortSignal | undefined {
  const candidate = value as Partial<AbortSignal> | null | undefined
  if (candidate === undefined) return
  if (typeof candidate?.aborted !== 'boolean' || typeof candidate.addEventListener !== 'function')
    throw typeError(name, 'an AbortSignal', value)
}
