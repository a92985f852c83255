// Text on a terminal: how wide it is, and nothing in it that the terminal would obey. Names of devices and of processes are chosen by others.

const ESCAPE = '\u001b'
/** What Paint puts around text, and nothing else of what begins so. */
const STYLES = `${ESCAPE}\\[(?:1|2|22|31|32|33|39)m`
const OBEYED = new RegExp(`${STYLES}|[\\p{Cc}\\p{Bidi_Control}]`, 'gu')
const PIECES = new RegExp(`${STYLES}|.`, 'gsu')
/** Characters that go with the one before, and those that take two places. */
const NARROW = /[\p{Mark}\p{Default_Ignorable_Code_Point}]/u
const WIDE =
  /\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u

/** One line as it can be shown: control characters as `\x1b`, and so are those that turn the direction of writing. Colours stay. */
export function printable(line: string): string {
  return line.replace(OBEYED, (found) => (found.length > 1 ? found : escaped(found)))
}

/** The same of text of several lines. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n')
}

function escaped(character: string): string {
  const code = character.charCodeAt(0)
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
}

/** How many places a line takes on a terminal. */
export function widthOf(line: string): number {
  return piecesOf(line).reduce((width, { places }) => width + places, 0)
}

/** What of a line goes into so many places; colours end where they would have. */
export function fit(line: string, places: number): string {
  let left = places
  return piecesOf(line)
    .filter((piece) => piece.places === 0 || (left -= piece.places) >= 0)
    .map(({ text }) => text)
    .join('')
}

function piecesOf(line: string): { readonly text: string; readonly places: number }[] {
  return Array.from(line.matchAll(PIECES), ([text]) => ({ text, places: placesOf(text) }))
}

function placesOf(piece: string): number {
  if (piece.startsWith(ESCAPE) || NARROW.test(piece)) return 0
  return WIDE.test(piece) ? 2 : 1
}
