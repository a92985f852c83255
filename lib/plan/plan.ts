// A plan: which vDPA devices a host should have, read from YAML or JSON and checked by the schema. It asks nothing of a host.

import { Ajv, type ErrorObject } from 'ajv'
import { isNode, isScalar, LineCounter, parseDocument, stringify, visit, type Document, type YAMLMap } from 'yaml'
import { checkObject, checkString, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { planSchema } from './schema.js'

/** Who should be able to open a node. What is absent is left as it is. */
export interface PlannedNode {
  /** Permissions, octal: `0660`. */
  readonly mode?: string
  /** A user of the host, by name or number. */
  readonly owner?: string | number
  /** A group of the host, by name or number. */
  readonly group?: string | number
  /** The SELinux label. */
  readonly label?: string
}

/** What a device must be able to do. */
export interface PlannedExpectation {
  /** How many groups of virtqueues, at least. */
  readonly groups?: number
  /** How many address spaces, at least. */
  readonly addressSpaces?: number
  /** The control queue of a network device can have an address space of its own. */
  readonly isolatedControlQueue?: true
}

/** A device as it should be. What is absent is left as it is. */
export interface PlannedDevice {
  /** The name of the device. */
  readonly name: string
  /** Whether it should be there; default `present`. */
  readonly state?: 'present' | 'absent'
  /** The handle of what makes it; there unless the state is `absent`. */
  readonly managementDevice?: string
  /** `00:11:22:33:44:55`, of a network device. */
  readonly mac?: string
  /** Bytes, 68..65535, of a network device. */
  readonly mtu?: number
  /** 1..32768, of a network device. */
  readonly queuePairs?: number
  /** All features that it offers, `0x…`. */
  readonly features?: string
  /** Which driver of the bus has it; `none` for no driver. */
  readonly driver?: 'vhost_vdpa' | 'virtio_vdpa' | 'none'
  /** Who may open its node, while vhost_vdpa has it. */
  readonly node?: PlannedNode
  /** What it must be able to do: applyPlan() opens the device to see, if nobody has it open. */
  readonly expect?: PlannedExpectation
  /** Who will have it open. Nothing is done with it: memlockNeeds() sums by it. */
  readonly process?: string
  /** How much of that process's memory is mapped for it: `4 GiB`. */
  readonly memory?: string
}

/** Which devices a host should have. Devices that it does not name are left alone. Plain data. */
export interface Plan {
  /** The version of this form: 1. */
  readonly version: 1
  /** In the order in which they are made. */
  readonly devices: readonly PlannedDevice[]
}

const validate = new Ajv({ allErrors: true, verbose: true, allowUnionTypes: true }).compile<Plan>(planSchema)

/** The longest text of a plan, in characters: a thousand for each device that there may be. Longer ones take minutes to read, and are no plans. */
export const longestPlan = 4096 * 1024

/**
 * Reads a plan from YAML, which JSON is a part of, of at most 4 Mi characters. ERR_VDPA_PLAN names every mistake with its line and column; `file` is for these sentences. Since 0.1.0.
 */
export function parsePlan(text: string, file = 'plan'): Plan {
  if (typeof text !== 'string') throw typeError('text', 'a string', text)
  checkString(file, 'file')
  if (text.length > longestPlan)
    throw broken([{ place: file, text: `it has more than ${longestPlan} characters, and is no plan` }])
  const lineCounter = new LineCounter()
  // Its own look for keys that are there twice compares each with each.
  const document = parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: false, logLevel: 'error' })
  const at = (offset: number) => {
    const { line, col } = lineCounter.linePos(offset)
    return `${file}:${line}:${col}`
  }
  if (document.errors.length > 0)
    throw broken(
      document.errors.map(({ pos, code, message }) => ({
        place: at(pos[0]),
        text: sentences[code] ?? message,
      })),
    )
  const doubles = attempt(file, () => keysTwice(document))
  if (doubles.length > 0)
    throw broken(doubles.map(({ key, offset }) => ({ place: at(offset), text: `${key} is there twice` })))
  const value = attempt(file, (): unknown => document.toJS({ maxAliasCount: MOST_ALIASES }))
  if (!validate(value)) {
    const mistakes = (validate.errors ?? []).filter(({ keyword }) => keyword !== 'if')
    const said = mistakes.slice(0, MOST_MISTAKES)
    throw broken(
      said.map((mistake) => ({ place: at(offsetOf(document, mistake)), text: sentenceOf(mistake) })),
      mistakes.length,
    )
  }
  const twice = twiceIn(value)
  if (twice >= 0) {
    const place = nodeAt(document, ['devices', String(twice), 'name']) ?? 0
    throw broken([{ place: at(place), text: `${value.devices[twice]?.name ?? ''} is there twice` }])
  }
  return value
}

const TOO_DEEP = 'it is nested too deeply'
/** Where the library's own words would not help. */
const sentences: Readonly<Record<string, string>> = {
  MULTIPLE_DOCS: 'a second document begins, and a plan is one',
  RESOURCE_EXHAUSTION: TOO_DEEP,
}

/** Keys of a map that has them already, each with its place. */
function keysTwice(document: Document): { readonly key: string; readonly offset: number }[] {
  const found: { key: string; offset: number }[] = []
  const look = (_key: unknown, { items }: YAMLMap) => {
    const seen = new Set<unknown>()
    for (const { key } of items)
      if (isScalar(key) && seen.size === seen.add(key.value).size)
        found.push({ key: String(key.value), offset: key.range?.[0] ?? 0 })
  }
  visit(document, { Map: look })
  return found
}

/** A plan that a program made, as it is now. ERR_VDPA_PLAN names every mistake with its place; TypeError for what is no plain data. */
export function checkPlan(plan: Plan): Plan {
  let value: unknown
  try {
    value = structuredClone(plan)
  } catch {
    throw typeError('plan', 'plain data', plan)
  }
  checkObject(value, 'plan')
  if (!validate(value)) {
    const mistakes = (validate.errors ?? []).filter(({ keyword }) => keyword !== 'if')
    throw broken(mistakes.map((mistake) => ({ place: `plan${mistake.instancePath}`, text: sentenceOf(mistake) })))
  }
  const twice = twiceIn(value)
  if (twice >= 0) {
    const text = `${value.devices[twice]?.name ?? ''} is there twice`
    throw broken([{ place: `plan/devices/${twice}`, text }])
  }
  return value
}

/** The place of the first device that has the name of one before it; -1 where none has. */
function twiceIn({ devices }: Plan): number {
  const names = new Set<string>()
  return devices.findIndex(({ name }) => names.size === names.add(name).size)
}

/** The text of a plan in YAML. */
export function formatPlan(plan: Plan): string {
  checkObject(plan, 'plan')
  return stringify(plan)
}

/** Aliases may make a small file a huge value: more than these are no plan. */
const MOST_ALIASES = 100

/** A walk through a document, which may be too deep or too wide. */
function attempt<T>(file: string, walk: () => T): T {
  try {
    return walk()
  } catch (failure) {
    const text = failure instanceof RangeError ? TOO_DEEP : failure instanceof Error ? failure.message : String(failure)
    throw broken([{ place: file, text }])
  }
}

interface Mistake {
  readonly place: string
  readonly text: string
}

/** A file that is no plan at all may have thousands of mistakes, each quoting it. */
const MOST_MISTAKES = 10
const MOST_CHARACTERS = 300

function broken(mistakes: readonly Mistake[], count = mistakes.length): Error {
  const said = mistakes.slice(0, MOST_MISTAKES).map(({ place, text }) => `${place}: ${printable(text)}`)
  const more = count - said.length
  return vdpaError('ERR_VDPA_PLAN', [...said, ...(more > 0 ? [`and ${more} more`] : [])].join('; '))
}

/** What is quoted of a file may be anything: nothing that a terminal would obey, and no whole pages. */
function printable(text: string): string {
  const short = text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}…` : text
  return short.replace(/\p{Cc}/gu, '?')
}

/** Where a mistake is: at the value, or at the key that should not be there. */
function offsetOf(document: Document, { instancePath, params }: ErrorObject): number {
  const path = instancePath.split('/').slice(1)
  const { additionalProperty } = params as { readonly additionalProperty?: string }
  return (
    (additionalProperty !== undefined ? nodeAt(document, [...path, additionalProperty]) : undefined) ??
    nodeAt(document, path) ??
    0
  )
}

function nodeAt(document: Document, path: readonly string[]): number | undefined {
  const keys = path.map((part) => (/^\d+$/.test(part) ? Number(part) : part))
  const node: unknown = keys.length === 0 ? document.contents : document.getIn(keys, true)
  return isNode(node) ? (node.range?.[0] ?? undefined) : undefined
}

function sentenceOf({ instancePath, message = 'is wrong', params, keyword }: ErrorObject): string {
  const where = instancePath === '' ? 'the plan' : instancePath.slice(1).replaceAll('/', '.')
  const { additionalProperty, allowedValues, allowedValue } = params as {
    readonly additionalProperty?: string
    readonly allowedValues?: readonly string[]
    readonly allowedValue?: unknown
  }
  if (additionalProperty !== undefined) return `${where} has no '${additionalProperty}'`
  const values = keyword === 'const' ? [String(allowedValue)] : keyword === 'enum' ? allowedValues : undefined
  const more = values === undefined ? '' : `: ${values.join(', ')}`
  return `${where} ${message}${more}`
}
