#!/usr/bin/env node
// The program that npm links as `vhost-vdpa`.

import { run } from './program.js'

function interrupt(): AbortSignal {
  const controller = new AbortController()
  // Once: a second interrupt ends the process as ever.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort())
  return controller.signal
}

// Whoever reads a pipe may go away, as head does: that is no failure. A full disk is one, and there is one place left to say so.
process.stdout.on('error', ({ code = 'EIO', message }: NodeJS.ErrnoException) => {
  if (code !== 'EPIPE') process.stderr.write(`vhost-vdpa: what there was to say could not be written: ${message}\n`)
  process.exit(code === 'EPIPE' ? 0 : 1)
})
// Nobody is left to be told.
process.stderr.on('error', () => undefined)

void run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, interrupt }).then((exitCode) => {
  process.exitCode = exitCode
})
