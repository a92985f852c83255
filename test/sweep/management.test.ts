// The sweep of management: each datagram and each look at a file refused in turn, and nothing is left: no socket, no timer that keeps the process, no driver
// override that nobody asked for.

import { describe, expect, test } from '@jest/globals'
import type { FileAttributes, HostFiles } from '../../lib/backend/host-files.js'
import { FaultyBackend } from '../../lib/backend/faulty-backend.js'
import { systemError } from '../../lib/base/errors.js'
import { unbindDriver } from '../../lib/management/binding.js'
import { busDevices } from '../../lib/management/sysfs.js'
import { VdpaFamily } from '../../lib/management/vdpa-family.js'
import { Simulator } from '../../lib/simulator/index.js'
import { errno, type ErrnoName } from '../../lib/uapi/errno.js'
import { managementRows, type ManagementRow } from './management-rows.js'

const MOST_CALLS = 200

/** Files of which the nth use is refused. */
class FaultyFiles implements HostFiles {
  readonly #inner: HostFiles
  readonly #nth: number
  readonly #code: ErrnoName
  #asked = 0
  /** What was refused. */
  refused: string | undefined

  constructor(inner: HostFiles, nth: number, code: ErrnoName) {
    this.#inner = inner
    this.#nth = nth
    this.#code = code
  }

  list(path: string): Promise<readonly string[]> {
    return this.#ask(`list ${path}`, () => this.#inner.list(path))
  }
  read(path: string): Promise<string> {
    return this.#ask(`read ${path}`, () => this.#inner.read(path))
  }
  link(path: string): Promise<string> {
    return this.#ask(`link ${path}`, () => this.#inner.link(path))
  }
  resolve(path: string): Promise<string> {
    return this.#ask(`resolve ${path}`, () => this.#inner.resolve(path))
  }
  write(path: string, text: string): Promise<void> {
    return this.#ask(`write ${path}`, () => this.#inner.write(path, text))
  }
  isAllowed(path: string): Promise<boolean> {
    return this.#inner.isAllowed(path)
  }
  attributes(path: string): Promise<FileAttributes> {
    return this.#ask(`attributes ${path}`, () => this.#inner.attributes(path))
  }
  setAttributes(path: string, attributes: Partial<FileAttributes>): Promise<void> {
    return this.#ask(`setAttributes ${path}`, () => this.#inner.setAttributes(path, attributes))
  }
  label(path: string): Promise<string | undefined> {
    return this.#ask(`label ${path}`, () => this.#inner.label(path))
  }
  setLabel(path: string, label: string): Promise<void> {
    return this.#ask(`setLabel ${path}`, () => this.#inner.setLabel(path, label))
  }

  #ask<T>(what: string, ask: () => Promise<T>): Promise<T> {
    if (++this.#asked !== this.#nth) return ask()
    this.refused = what
    return Promise.reject(systemError(this.#code, errno[this.#code], 'refused on purpose', { path: what }))
  }
}

/** A host with `net0`, which vhost_vdpa has, and `blk1`, which nobody has. */
async function host(): Promise<Simulator> {
  const simulator = new Simulator()
  await using family = VdpaFamily.open(simulator)
  await family.add({ name: 'net0', managementDevice: 'vdpasim_net', mac: '02:00:00:00:00:01' })
  await family.add({ name: 'blk1', managementDevice: 'vdpasim_blk' })
  await unbindDriver('blk1', { root: simulator.management.files })
  return simulator
}

type Refuse = (simulator: Simulator) => {
  readonly backend: FaultyBackend
  readonly root: HostFiles
  readonly refused: () => string | undefined
}

/** The verb with its nth call refused; undefined when it makes no more than that. */
async function sweepOnce(row: ManagementRow, refuse: Refuse): Promise<string[] | undefined> {
  const simulator = await host()
  const { files } = simulator.management
  const overrides = async () =>
    (await busDevices(files)).map(({ name, driverOverride }) => `${name}: ${driverOverride}`)
  const [before, descriptors] = [await overrides(), simulator.descriptors.map(String)]
  const { refused, ...scene } = refuse(simulator)
  const failure: unknown = await row.act(scene).then(
    () => undefined,
    (error: unknown) => error,
  )
  const left = simulator.descriptors.map(String).filter((what) => !descriptors.includes(what))
  const what = refused()
  // Who is refused the writing of the override cannot take it back.
  const isOverride = row.verb === 'setDriverOverride()' || what?.includes('driver_override') === true
  const after = (await overrides()).filter((one) => !before.includes(one) && !one.endsWith(': undefined'))
  if (!isOverride) left.push(...after.map((one) => `override of ${one} after ${what ?? 'all went well'}`))
  return what === undefined && failure === undefined && left.length === 0 ? undefined : left
}

async function sweep(row: ManagementRow, refuse: (nth: number) => Refuse): Promise<string[]> {
  const leftovers: string[] = []
  let nth = 1
  for (; nth <= MOST_CALLS; nth++) {
    const left = await sweepOnce(row, refuse(nth))
    if (left === undefined) break
    leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
  }
  if (nth > MOST_CALLS) leftovers.push('it never comes to its end')
  return leftovers
}

const refuseFile =
  (code: ErrnoName) =>
  (nth: number): Refuse =>
  (simulator) => {
    const root = new FaultyFiles(simulator.management.files, nth, code)
    return { backend: new FaultyBackend(simulator), root, refused: () => root.refused }
  }

const refuseCall =
  (code: ErrnoName) =>
  (nth: number): Refuse =>
  (simulator) => {
    const backend = new FaultyBackend(simulator)
    const fault = backend.fail({ with: code, nth, when: ({ op }) => op !== 'close' })
    return { backend, root: simulator.management.files, refused: () => (fault.hits > 0 ? 'a call' : undefined) }
  }

describe.each(managementRows.map((row) => [row.verb, row] as const))('%s', (_verb, row) => {
  test.each(['ENOMEM', 'EIO'] as const)('with each datagram refused by %s leaves nothing', async (code) =>
    expect(await sweep(row, refuseCall(code))).toEqual([]),
  )
  test.each(['ENOENT', 'EIO'] as const)('with each look at a file refused by %s leaves nothing', async (code) =>
    expect(await sweep(row, refuseFile(code))).toEqual([]),
  )
})
