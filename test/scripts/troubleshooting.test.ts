// The guide about errors knows every code of the package, with a remedy each, and none that there is not.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from '@jest/globals'
import { root } from './support.js'

const read = (file: string) => readFileSync(join(root, file), 'utf8')

test('the guide has a row for every code', () => {
  const codes = Array.from(read('lib/base/errors.ts').matchAll(/^ {2}\| '(ERR_VDPA_\w+)'/gm), ([, code]) => code)
  const rows = Array.from(
    read('docs/guides/troubleshooting.md').matchAll(/^\| `(ERR_VDPA_\w+)` \| (.+) \| (.+) \|$/gm),
    ([, code]) => code,
  )
  expect(codes.length).toBeGreaterThan(20)
  expect(rows.sort()).toEqual(codes.sort())
})
