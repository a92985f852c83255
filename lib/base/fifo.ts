// A queue of objects in the order of their coming, from which one may also be taken out of the middle, each at the same cost however many there are.

/** Objects that wait for their turn. Each is in it once at most. */
export class Fifo<T extends object> {
  #items: (T | undefined)[] = []
  #head = 0
  readonly #places = new Map<T, number>()

  get size(): number {
    return this.#places.size
  }

  /** The one that waits longest. */
  get first(): T | undefined {
    return this.#items[this.#head]
  }

  has(item: T): boolean {
    return this.#places.has(item)
  }

  push(item: T): void {
    this.#places.set(item, this.#items.push(item) - 1)
  }

  /** Takes the one out that waits longest; undefined when there is none. */
  shift(): T | undefined {
    const { first } = this
    if (first !== undefined) this.delete(first)
    return first
  }

  /** Takes one out, wherever it stands; false when it is not there. */
  delete(item: T): boolean {
    const place = this.#places.get(item)
    if (place === undefined) return false
    this.#places.delete(item)
    this.#items[place] = undefined
    while (this.#head < this.#items.length && this.#items[this.#head] === undefined) this.#head++
    if (this.#places.size === 0) this.#clear()
    else if (this.#head > 1024 && this.#head > this.#items.length / 2) this.#compact()
    return true
  }

  #clear(): void {
    this.#items = []
    this.#head = 0
  }

  #compact(): void {
    this.#items = this.#items.slice(this.#head)
    this.#head = 0
    for (const [place, item] of this.#items.entries()) if (item !== undefined) this.#places.set(item, place)
  }
}
