// Where a program can be changed a little: mutants of a TypeScript source, by its syntax tree. Knows nothing of tests.
import ts from 'typescript'

const { SyntaxKind } = ts

/** Operators and what stands in their place. */
const swaps = new Map([
  ['<', '<='],
  ['<=', '<'],
  ['>', '>='],
  ['>=', '>'],
  ['===', '!=='],
  ['!==', '==='],
  ['+', '-'],
  ['-', '+'],
  ['*', '+'],
  ['%', '+'],
  ['&&', '||'],
  ['||', '&&'],
  ['&', '|'],
  ['|', '&'],
  ['^', '|'],
  ['<<', '>>>'],
  ['>>>', '<<'],
  ['+=', '-='],
  ['-=', '+='],
  ['??', '&&'],
])

/**
 * All mutants of a source, in the order of the text: `{ at, end, to, kind }` puts `to` in the place of the text between the two offsets. Types, imports and the
 * words of errors are left alone: what they say is not what a program does.
 */
export function mutantsOf(name, text) {
  const source = ts.createSourceFile(name, text, ts.ScriptTarget.ES2022, true)
  const mutants = []
  const put = (node, to, kind) => mutants.push({ at: node.getStart(source), end: node.getEnd(), to, kind })
  const visit = (node) => {
    if (isSilent(node)) return
    changes(node, source, put)
    ts.forEachChild(node, visit)
  }
  visit(source)
  return mutants.sort((one, other) => one.at - other.at || one.end - other.end)
}

/** The source with a mutant in it. */
export function mutated(text, { at, end, to }) {
  return text.slice(0, at) + to + text.slice(end)
}

function isSilent(node) {
  return (
    ts.isTypeNode(node) ||
    ts.isImportDeclaration(node) ||
    ts.isExportDeclaration(node) ||
    ts.isInterfaceDeclaration(node) ||
    ts.isTypeAliasDeclaration(node) ||
    // The sentence of an error, and its fields.
    ts.isThrowStatement(node) ||
    ts.isTemplateExpression(node)
  )
}

function changes(node, source, put) {
  if (ts.isBinaryExpression(node)) {
    const swap = swaps.get(node.operatorToken.getText(source))
    if (swap !== undefined) put(node.operatorToken, swap, 'operator')
  }
  const condition = conditionOf(node)
  if (condition !== undefined) put(condition, `!(${condition.getText(source)})`, 'condition')
  if (ts.isPrefixUnaryExpression(node) && node.operator === SyntaxKind.ExclamationToken)
    put(node, node.operand.getText(source), 'condition')
  if (node.kind === SyntaxKind.TrueKeyword && !ts.isLiteralTypeNode(node.parent)) put(node, 'false', 'literal')
  if (node.kind === SyntaxKind.FalseKeyword && !ts.isLiteralTypeNode(node.parent)) put(node, 'true', 'literal')
  if (ts.isNumericLiteral(node) && !ts.isPropertyAssignment(node.parent))
    put(node, `(${node.getText(source)} + 1)`, 'number')
  if (ts.isBigIntLiteral(node)) put(node, `(${node.getText(source)} + 1n)`, 'number')
  if (ts.isPostfixUnaryExpression(node)) put(node, turned(node, source), 'operator')
  if (isDroppable(node)) put(node, ';', 'statement')
}

function conditionOf(node) {
  if (ts.isIfStatement(node) || ts.isWhileStatement(node)) return node.expression
  if (ts.isConditionalExpression(node)) return node.condition
  return ts.isForStatement(node) ? node.condition : undefined
}

function turned(node, source) {
  const operand = node.operand.getText(source)
  return node.operator === SyntaxKind.PlusPlusToken ? `${operand}--` : `${operand}++`
}

/** A statement that is there for what it does: a call, an assignment, a step of a procedure. */
function isDroppable(node) {
  if (!ts.isExpressionStatement(node)) return false
  let { expression } = node
  while (ts.isAwaitExpression(expression) || ts.isYieldExpression(expression) || ts.isVoidExpression(expression)) {
    if (expression.expression === undefined) return true
    expression = expression.expression
  }
  // Without super() nothing is constructed at all.
  return !(ts.isCallExpression(expression) && expression.expression.kind === SyntaxKind.SuperKeyword)
}

/** `count` of `items`, by lot from a seed: the same each time. */
export function sample(items, count, seed) {
  const left = [...items]
  const next = generator(seed)
  const chosen = []
  while (left.length > 0 && chosen.length < count) chosen.push(...left.splice(next() % left.length, 1))
  return chosen
}

/** 32-bit numbers by lot (the generator of Marsaglia, xorshift32). */
function generator(seed) {
  let state = (seed >>> 0) ^ 0x9e3779b9 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>>= 0)
  }
}
