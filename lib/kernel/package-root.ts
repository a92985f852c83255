// Where this package lies.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** The folder of this package, whether this file is in lib/, dist/, a test build of it, or part of a program's bundle beside its node_modules. */
export function packageRoot(): string {
  for (let folder = __dirname; folder !== dirname(folder); folder = dirname(folder)) {
    try {
      const { name } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { readonly name?: unknown }
      if (name === 'vhost-vdpa') return folder
    } catch {
      // No package.json here, or not one: the next folder up.
    }
  }
  try {
    return dirname(createRequire(join(__dirname, 'bundle.js')).resolve('vhost-vdpa/package.json'))
  } catch {
    return __dirname
  }
}
