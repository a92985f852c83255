// What the native tests share: the backend, or the reason why they are skipped, and looks at this process from outside.

import { describe } from '@jest/globals'
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isVdpaError, type VdpaError } from '../../lib/base/errors'
import { tryLoadAddon } from '../../lib/kernel/addon'
import { KernelBackend } from '../../lib/kernel/kernel-backend'
import { until } from '../until'

const { addon, reason } = tryLoadAddon()

/** A suite that needs the addon; without one it is skipped, and its title says why. */
export function describeNative(title: string, body: (backend: () => KernelBackend) => void): void {
  // The suite is built either way, so the backend is made when a test asks for it.
  let backend: KernelBackend | undefined
  const get = () => (backend ??= new KernelBackend(addon))
  const suite = addon === undefined ? describe.skip : describe
  suite(addon === undefined ? `${title} (skipped: ${reason})` : title, () => {
    body(get)
  })
}

/** The VdpaError that `call` throws or rejects with. */
export async function failureOf(call: () => unknown): Promise<VdpaError> {
  try {
    await call()
  } catch (error) {
    if (isVdpaError(error)) return error
    throw error
  }
  throw new Error('the call did not fail')
}

/** A folder that is gone at the end of the block that made it. */
export class TemporaryFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'vhost-vdpa-test-'))

  file(name: string): string {
    return join(this.path, name)
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true })
  }
}

/** The package's folder, also when this file was compiled into another one. */
export function packageRoot(): string {
  let folder = __dirname
  while (!existsSync(join(folder, 'binding.gyp'))) folder = dirname(folder)
  return folder
}

/** The descriptors this process has open: the number of each, and what it is, so that another one that takes the number over later is told apart. */
export function openDescriptors(): ReadonlyMap<string, string> {
  const open = new Map<string, string>()
  for (const number of readdirSync('/proc/self/fd')) {
    try {
      const { dev, ino } = statSync(`/proc/self/fd/${number}`)
      const event = /^eventfd-id:.*$/m.exec(readFileSync(`/proc/self/fdinfo/${number}`, 'latin1'))?.[0] ?? ''
      open.set(number, `${readlinkSync(`/proc/self/fd/${number}`)} ${dev}:${ino} ${event}`.trimEnd())
    } catch {
      // Closed meanwhile, as the one is that listed them.
    }
  }
  return open
}

/** What was opened since `before` and is open now. What other tests left to the garbage collector is closed at any moment, so a count would not tell. */
export function leftOpen(before: ReadonlyMap<string, string>): string[] {
  return [...openDescriptors()]
    .filter(([number, what]) => before.get(number) !== what)
    .map(([number, what]) => `${number}: ${what}`)
}

/** Resolves once nothing of what was opened since `before` is open. */
export async function untilNoneIsOpen(before: ReadonlyMap<string, string>): Promise<void> {
  await until(() => leftOpen(before).length === 0).catch(() => {
    throw new Error(`still open: ${leftOpen(before).join(', ')}`)
  })
}

/** How many mappings of files whose name contains `name` this process has. */
export function mappingsOf(name: string): number {
  return readFileSync('/proc/self/maps', 'latin1')
    .split('\n')
    .filter((line) => line.includes(name)).length
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Runs the garbage collector and what waits for it, until `isDone` or three minutes have passed; or often enough that all would be collected that ever is. */
export async function collectGarbage(isDone?: () => boolean): Promise<void> {
  const end = performance.now() + 180_000
  for (let round = 0; isDone === undefined ? round < 5 : !isDone() && performance.now() < end; round++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
