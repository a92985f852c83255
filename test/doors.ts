// The doors of the package, as package.json has them: what a program may import, and the file that it comes from.

import { readFileSync } from 'node:fs'
import { packageRoot } from './native/support.js'

/** `.` is `lib/index.ts`, and so on; data that may be imported is no door. */
export function doors(): readonly (readonly [door: string, source: string])[] {
  const { exports } = JSON.parse(readFileSync(`${packageRoot()}/package.json`, 'utf8')) as {
    readonly exports: Readonly<Record<string, string | { readonly types: string }>>
  }
  return Object.entries(exports).flatMap(([door, to]) =>
    typeof to === 'string' ? [] : [[door, to.types.replace(/^\.\/dist\/(.*)\.d\.ts$/, 'lib/$1.ts')] as const],
  )
}
