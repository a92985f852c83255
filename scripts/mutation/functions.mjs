// Which functions of a source run: their places by its syntax tree, and the source with a mark in each. Knows nothing of tests.
import ts from 'typescript'

/** The functions of a source that have a body, outer ones before those in them: `{ at, end, body }`. */
export function functionsOf(name, text) {
  const source = ts.createSourceFile(name, text, ts.ScriptTarget.ES2022, true)
  const functions = []
  const visit = (node) => {
    if (ts.isFunctionLike(node) && node.body !== undefined)
      functions.push({ at: node.getStart(source), end: node.getEnd(), body: node.body })
    ts.forEachChild(node, visit)
  }
  visit(source)
  return functions
}

/** The name of the innermost function around an offset, or of the file's own statements. */
export function functionAt(name, functions, at) {
  const around = functions.filter((one) => one.at <= at && at < one.end)
  return `${name}:${around.at(-1)?.at ?? 'file'}`
}

/** The source with a call of the global `ran`, where there is one, at the start of each function and of the file. */
export function marked(name, text) {
  const edits = functionsOf(name, text).flatMap(({ at, body }) => {
    const mark = callOf(`${name}:${at}`)
    if (ts.isBlock(body)) return [{ at: body.getStart() + 1, text: `${mark};` }]
    return [
      { at: body.getStart(), text: `(${mark},` },
      { at: body.getEnd(), text: ')' },
    ]
  })
  let result = text
  for (const edit of edits.sort((one, other) => other.at - one.at))
    result = result.slice(0, edit.at) + edit.text + result.slice(edit.at)
  return `${callOf(`${name}:file`)};${result}`
}

function callOf(id) {
  return `globalThis.ran?.(${JSON.stringify(id)})`
}
