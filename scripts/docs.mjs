// `npm run docs`: the reference of every public symbol, as pages in build/docs. `--check` writes none. Fails where a public symbol has no text, or a link leads nowhere.
import { fileURLToPath } from 'node:url'
import { Application, ConsoleLogger, TSConfigReader, TypeDocReader } from 'typedoc'

/** Members of a type that is written out where it is used (a table of kernel names, an argument of a few fields) are described by what has them. */
const isInLiteral = (text) => /\.__type\b.*does not have any documentation/.test(text)

class Logger extends ConsoleLogger {
  warn(text, ...where) {
    if (!isInLiteral(String(text))) super.warn(text, ...where)
  }
}

const root = fileURLToPath(new URL('..', import.meta.url))
const readers = [new TypeDocReader(), new TSConfigReader()]
const app = await Application.bootstrapWithPlugins({ options: `${root}typedoc.json` }, readers)
app.logger = new Logger()
const project = await app.convert()
if (project === undefined) process.exit(1)
app.validate(project)
if (app.logger.hasErrors() || app.logger.hasWarnings()) process.exit(1)
if (!process.argv.includes('--check')) await app.generateOutputs(project)
