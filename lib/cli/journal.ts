// The journal of `apply`: a plan that brings back what was there before, whole on the disk before anything is changed, and marked until the applying has ended. An
// applying that was killed leaves the mark: the next one with the same journal adds to what is there, and puts nothing that is half done in its place.

import fs from 'node:fs'
import { formatPlan, parsePlan, planSteps, type Plan, type PlanHost } from '../plan/index.js'
import { longestPlan } from '../plan/plan.js'
import { keepFile } from './written-files.js'

const TITLE = '# What was there before: `vhost-vdpa apply` of this brings it back.\n'
const MARK = '# The applying has not ended: the next one with this journal adds to it.\n'

export class Journal {
  readonly #file: string
  readonly #host: PlanHost
  /** What an applying that did not end found there, where the host is otherwise now. */
  readonly #left: Plan | undefined

  private constructor(file: string, host: PlanHost, left: Plan | undefined) {
    this.#file = file
    this.#host = host
    this.#left = left
  }

  /** The journal in a file, which an applying that did not end may have left. */
  static async at(file: string, host: PlanHost): Promise<Journal> {
    const text = unfinished(file)
    const left = text === undefined ? undefined : parsePlan(text, file)
    return new Journal(file, host, left === undefined || (await isAsIn(left, host)) ? undefined : left)
  }

  /** Before anything is changed: what cannot be kept is not begun. */
  begin(before: Plan): void {
    const known = this.#left?.devices ?? []
    const names = new Set(known.map(({ name }) => name))
    const devices = [...known, ...before.devices.filter(({ name }) => !names.has(name))]
    keepFile(this.#file, TITLE + MARK + formatPlan({ ...before, devices }))
  }

  /** The host is as the plan says. */
  end(): void {
    const text = unfinished(this.#file)
    if (text !== undefined) keepFile(this.#file, text.replace(MARK, ''))
  }

  /** It is not: the mark stays, unless all was undone. */
  async endIfUndone(): Promise<void> {
    const text = unfinished(this.#file)
    if (text !== undefined && (await isAsIn(parsePlan(text, this.#file), this.#host))) this.end()
  }
}

const isAsIn = async (plan: Plan, host: PlanHost) => (await planSteps(plan, host)).length === 0

/** What is in a journal with the mark. A device or a pipe keeps nothing. */
function unfinished(file: string): string | undefined {
  const known = fs.statSync(file, { throwIfNoEntry: false })
  if (known?.isFile() !== true || known.size > 3 * longestPlan) return undefined
  const text = fs.readFileSync(file, 'utf8')
  return text.startsWith(TITLE + MARK) ? text : undefined
}
