// The tracks of a picture of time. What is under way together on one of them is spread over tracks below it, because slices of one track must not overlap.

import type { TimelineTrack } from './timeline.js'

interface Lane {
  readonly id: number
  /** When its last slice ended; infinite where it never did. */
  freeAt: number
}

interface Group {
  name: string
  readonly parent: string | undefined
  readonly lanes: Lane[]
}

/** Tracks by the key of what they are of: the name of an object in the trace, or of a queue. */
export class Lanes {
  readonly #groups = new Map<string, Group>()
  #last = 0

  /** Names a track, the last name counts; makes it, below another, where it is new. */
  name(key: string, name: string, parent?: string): void {
    const known = this.#groups.get(key)
    // A path or a role says more than the kind of an object.
    if (known === undefined) this.#groups.set(key, { name, parent, lanes: [{ id: ++this.#last, freeAt: 0 }] })
    else if (!isPlain(name)) known.name = name
  }

  /** The track itself. */
  root(key: string): number {
    return this.#group(key).lanes[0]?.id ?? 0
  }

  /** A track of this key that is free from `begin` on, taken until `end`. */
  of(key: string, { begin, end = Infinity }: { readonly begin: number; readonly end: number | undefined }): number {
    const { lanes } = this.#group(key)
    let lane = lanes.find(({ freeAt }) => freeAt <= begin)
    if (lane === undefined) {
      lane = { id: ++this.#last, freeAt: 0 }
      lanes.push(lane)
    }
    lane.freeAt = end
    return lane.id
  }

  /** All of them, a parent before its children. */
  tracks(): TimelineTrack[] {
    return [...this.#groups.values()].flatMap(({ name, parent, lanes }) => {
      const above = parent === undefined ? undefined : this.root(parent)
      const [root, ...others] = lanes.map(({ id }) => id)
      if (root === undefined) return []
      const below = others.map((id, index) => ({ id, name: `${name}, ${index + 2} at a time`, parent: root }))
      return [{ id: root, name, ...(above !== undefined && { parent: above }) }, ...below]
    })
  }

  #group(key: string): Group {
    const group = this.#groups.get(key)
    if (group === undefined) throw new Error(`no track of ${key}`)
    return group
  }
}

function isPlain(name: string): boolean {
  return /^[hmend]\d+( (node|memory|eventfd|netlink|doorbell))?$/.test(name)
}
