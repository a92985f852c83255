#!/usr/bin/env node
// The program that npm links as `vhost-vdpa`.

import { run } from './program.js'

function interrupt(): AbortSignal {
  const controller = new AbortController()
  // Once: a second interrupt ends the process as ever.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort())
  return controller.signal
}

// Whoever reads a pipe may go away, as head does: that is no failure.
process.stdout.on('error', (failure: NodeJS.ErrnoException) => {
  if (failure.code !== 'EPIPE') throw failure
  process.exit(0)
})

void run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, interrupt }).then((exitCode) => {
  process.exitCode = exitCode
})
