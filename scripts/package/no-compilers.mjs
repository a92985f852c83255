// A PATH as on a machine without compilers, of the programs that are here.
import { existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { delimiter, join } from 'node:path'

const compilers = /^(gcc|g\+\+|cc|c\+\+|c89|c99|clang|tcc|x86_64-linux-gnu-(gcc|g\+\+|cpp)|c89-gcc|c99-gcc)/

/** Makes a folder of links to every program of PATH that is not a compiler. */
export function pathWithoutCompilers(folder) {
  mkdirSync(folder)
  for (const place of (process.env.PATH ?? '').split(delimiter)) {
    if (place === '' || place.includes('node_modules') || !existsSync(place)) continue
    for (const name of readdirSync(place)) {
      if (!compilers.test(name) && !existsSync(join(folder, name))) {
        try {
          symlinkSync(join(place, name), join(folder, name))
        } catch (failure) {
          if (failure.code !== 'EEXIST') throw failure
        }
      }
    }
  }
  return folder
}
