// A strict reader of the OpenMetrics 1.0 text form: what it does not know is an error.

/** One line with a value. */
export interface ReadSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: string
}

const sampleLine = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\d+(?:\.\d+)?(?:e[+-]?\d+)?|-\d+(?:\.\d+)?)$/s
const label = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\n|\\")*)"(,|$)/gy

/** The samples of a text. Throws for a family that is said twice, samples outside of their family, a value twice, and a missing end. */
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
      if (families.has(family.name)) throw new Error(`${family.name} is said twice`)
      families.add(family.name)
      continue
    }
    const sample = sampleLine.exec(line)
    if (sample === null) throw new Error(`not a sample: ${line}`)
    const [, name = '', labels = '{}', value = ''] = sample
    if (name !== family.name + (family.type === 'counter' ? '_total' : '')) throw new Error(`${name} in ${family.name}`)
    if (seen.has(name + labels)) throw new Error(`twice: ${line}`)
    seen.add(name + labels)
    samples.push({ name, labels: readLabels(labels.slice(1, -1)), value })
  }
  return samples
}

function readLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  label.lastIndex = 0
  for (let from = 0; from < text.length; from = label.lastIndex) {
    const match = label.exec(text)
    if (match === null) throw new Error(`no label: ${text.slice(from)}`)
    const escapes: Readonly<Record<string, string>> = { '\\\\': '\\', '\\n': '\n', '\\"': '"' }
    labels[String(match[1])] = String(match[2]).replace(/\\./g, (escape) => escapes[escape] ?? escape)
  }
  return labels
}
