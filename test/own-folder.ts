// A folder for the sockets and pipes of a suite, and descriptors that are all closed when a test of it has ended.

import { afterEach } from '@jest/globals'
import type { KernelBackend } from '../lib/kernel/kernel-backend'
import { openDescriptors, TemporaryFolder, untilNoneIsOpen } from './native/support'

/** For a suite: what is begun here ends after each test. */
export function ownFolder(backend: () => KernelBackend) {
  let folder = new TemporaryFolder()
  let before = openDescriptors()
  const untilClosed = () => untilNoneIsOpen(before)
  afterEach(async () => {
    folder[Symbol.dispose]()
    await untilClosed()
  })
  /** Called first by each test. */
  const begin = () => {
    backend()
    before = openDescriptors()
    folder = new TemporaryFolder()
  }
  return { begin, file: (name: string) => folder.file(name), untilClosed }
}
