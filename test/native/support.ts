// What the native tests share: the backend, or the reason why they are skipped, and looks at this process from outside.

import { describe } from '@jest/globals'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isVdpaError, type VdpaError } from '../../lib/base/errors'
import { tryLoadAddon } from '../../lib/kernel/addon'
import { KernelBackend } from '../../lib/kernel/kernel-backend'

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

/** How many descriptors this process has open. */
export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}

/** How many mappings of files whose name contains `name` this process has. */
export function mappingsOf(name: string): number {
  return readFileSync('/proc/self/maps', 'latin1')
    .split('\n')
    .filter((line) => line.includes(name)).length
}

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Runs the garbage collector and what waits for it, until `isDone` or half a minute has passed; or often enough that all would be collected that ever is. */
export async function collectGarbage(isDone?: () => boolean): Promise<void> {
  const end = performance.now() + 30_000
  for (let round = 0; isDone === undefined ? round < 5 : !isDone() && performance.now() < end; round++) {
    gc()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
