// How much of lists and sets the language's own methods look at while something is done: for tests of what must not look at all of many for each of them.

const ofArrays = [
  ...['filter', 'map', 'find', 'findIndex', 'findLast', 'findLastIndex', 'some', 'every', 'includes', 'indexOf'],
  ...[
    'lastIndexOf',
    'splice',
    'slice',
    'sort',
    'concat',
    'flatMap',
    'forEach',
    'reduce',
    'reverse',
    'shift',
    'unshift',
  ],
] as const

type Method = (this: unknown, ...values: unknown[]) => unknown

/**
 * Elements of the arrays and sets that were walked by such a method, or copied: the whole length each time, though a search may end early. Loops count nothing. What
 * `act` begins and does not end in this call is not counted.
 */
export function arrayWork(act: () => unknown): number {
  let count = 0
  const undo: (() => void)[] = []
  const watch = (prototype: object, name: PropertyKey, sizeOf: (it: unknown) => number) => {
    const descriptor = Object.getOwnPropertyDescriptor(prototype, name)
    if (descriptor === undefined) throw new Error(`there is no ${String(name)}`)
    const method = descriptor.value as Method
    const counting: Method = function (...values) {
      count += sizeOf(this)
      return Reflect.apply(method, this, values)
    }
    Object.defineProperty(prototype, name, { ...descriptor, value: counting })
    undo.push(() => Object.defineProperty(prototype, name, descriptor))
  }
  try {
    for (const name of ofArrays) watch(Array.prototype, name, (it) => (it as unknown[]).length)
    for (const name of [Symbol.iterator, 'values', 'forEach'])
      watch(Set.prototype, name, (it) => (it as Set<unknown>).size)
    act()
  } finally {
    for (const again of undo) again()
  }
  return count
}
