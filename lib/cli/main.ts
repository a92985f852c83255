#!/usr/bin/env node
// The program that npm links as `vhost-vdpa`.

import { run } from './program.js'

void run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr }).then((exitCode) => {
  process.exitCode = exitCode
})
