// A strict reader of the OpenMetrics 1.0 text form: what it does not know is an error.

/** One line with a value. */
export interface ReadSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: string
}

const sampleLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\d+(?:\.\d+)?(?:e[+-]?\d+)?|-\d+(?:\.\d+)?)$/s
const label = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\n|\\")*)"(,|$)/gy

/** The samples of a text. Throws for a family that is said twice or has a name of another's samples, samples outside of their family, a value twice, and a missing end. */
export function parseOpenMetrics(text: string): ReadSample[] {
  if (!text.endsWith('\n# EOF\n') && text !== '# EOF\n') throw new Error('no # EOF at the end')
  const families = new Set<string>()
  const seen = new Set<string>()
  const samples: ReadSample[] = []
  let family = { name: '', type: '' }
  for (const line of text.split('\n').slice(0, -2)) {
    const type = /^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$/.exec(line)
    if (type !== null) {
      family = { name: String(type[1]), type: String(type[2]) }
      // Names of families and of their samples are one set: no family may have a name that another's samples could have.
      for (const name of namesOf(family)) {
        if (families.has(name)) throw new Error(`${name} is said twice`)
        families.add(name)
      }
      continue
    }
    const sample = sampleLine.exec(line)
    if (sample === null) throw new Error(`not a sample: ${line}`)
    const [, name = '', labels = '{}', value = ''] = sample
    if (name !== family.name + (family.type === 'counter' ? '_total' : '')) throw new Error(`${name} in ${family.name}`)
    const read = readLabels(labels.slice(1, -1))
    const key = JSON.stringify([name, ...Object.entries(read).sort()])
    if (seen.has(key)) throw new Error(`twice: ${line}`)
    seen.add(key)
    samples.push({ name, labels: read, value })
  }
  return samples
}

function namesOf({ name, type }: { readonly name: string; readonly type: string }): string[] {
  return type === 'counter' ? [name, `${name}_total`, `${name}_created`] : [name]
}

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  label.lastIndex = 0
  for (let from = 0; from < text.length; from = label.lastIndex) {
    const match = label.exec(text)
    if (match === null) throw new Error(`no label: ${text.slice(from)}`)
    const escapes: Readonly<Record<string, string>> = { '\\\\': '\\', '\\n': '\n', '\\"': '"' }
    if (String(match[1]).startsWith('__')) throw new Error(`a reserved label: ${match[1]}`)
    if (Object.hasOwn(labels, String(match[1]))) throw new Error(`a label twice: ${match[1]}`)
    labels[String(match[1])] = String(match[2]).replace(/\\./g, (escape) => escapes[escape] ?? escape)
  }
  return labels
}
