import { storedBlockDevice } from 'vhost-vdpa/serve'

const CHUNK = 4096

/** A disk of `size` bytes; called with the `argument` below, on the thread that serves it. */
export default function makeDisk({ size }) {
  const chunks = new Map()
  const chunk = (index) => chunks.get(index) ?? chunks.set(index, new Uint8Array(CHUNK)).get(index)
  /** Calls `visit(bytes of a chunk, where they are in the request)` for all of a range. */
  const each = (position, length, visit) => {
    for (let done = 0; done < length;) {
      const at = (position + done) % CHUNK
      const count = Math.min(CHUNK - at, length - done)
      visit(chunk(Math.floor((position + done) / CHUNK)).subarray(at, at + count), done)
      done += count
    }
  }
  return storedBlockDevice({
    size,
    read: async (position, target) => each(position, target.length, (bytes, done) => target.set(bytes, done)),
    write: async (position, source) =>
      each(position, source.length, (bytes, done) => bytes.set(source.subarray(done, done + bytes.length))),
    clear: async (position, length) => each(position, length, (bytes) => bytes.fill(0)),
    flush: async () => undefined, // resolve when what was written survives a crash
  })
}
