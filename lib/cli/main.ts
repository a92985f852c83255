#!/usr/bin/env node
// The program that npm links as `vhost-vdpa`.

import { run } from './program.js'

/** Aborted by an interrupt, by a terminal that goes away, and when nobody can be told anything any more. */
const ending = new AbortController()
/** The exit code of the command, and that of what it had to say. */
let [done, said] = [0, 0]
let isHungUp = false

function interrupt(): AbortSignal {
  // Once: a second one ends the process as ever.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      isHungUp ||= signal === 'SIGHUP'
      ending.abort()
    })
  return ending.signal
}

// Whoever reads a pipe may go away, as head does: that is no failure. A full disk is one, and there is one place left to say so.
process.stdout.on('error', ({ code = 'EIO', message }: NodeJS.ErrnoException) => {
  if (code !== 'EPIPE' && said === 0) {
    process.stderr.write(`vhost-vdpa: what there was to say could not be written: ${message}\n`)
    said = 1
  }
  process.exitCode = done || said
  ending.abort()
})
// Nobody is left to be told.
process.stderr.on('error', () => undefined)

void run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, interrupt }).then((exitCode) => {
  done = exitCode
  process.exitCode = done || said
  // Node's own end fails where the terminal is gone that it would set to rights.
  if (isHungUp) process.kill(process.pid, 'SIGHUP')
})
