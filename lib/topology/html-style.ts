// How the page of a topology looks: every pair of colours that text or a border stands in has at least the contrast of WCAG AA, light and dark.

/** Colours by their role, in light and in dark surroundings. */
export const pageColours = {
  light: {
    ground: '#ffffff',
    text: '#16202c',
    quiet: '#4a5866',
    line: '#35506b',
    box: '#eef3f8',
    focus: '#0b57d0',
    ro: '#8a5a00',
    wo: '#9c1f5b',
    rw: '#0f6b3c',
  },
  dark: {
    ground: '#10161d',
    text: '#eef2f6',
    quiet: '#aab7c4',
    line: '#9db8d4',
    box: '#1d2733',
    focus: '#8ab4ff',
    ro: '#f0b95a',
    wo: '#ff93c0',
    rw: '#6fd3a0',
  },
} as const

function variables(colours: Readonly<Record<string, string>>): string {
  return Object.entries(colours)
    .map(([name, colour]) => `--${name}:${colour}`)
    .join(';')
}

/** The page's style sheet. */
export const pageStyle = `
:root{color-scheme:light dark;${variables(pageColours.light)}}
@media (prefers-color-scheme:dark){:root{${variables(pageColours.dark)}}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:70rem;background:var(--ground);color:var(--text);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
p{margin:.25rem 0}.quiet{color:var(--quiet)}code,td,th,output{font-family:ui-monospace,monospace;font-size:.9rem}
#picture svg{max-width:100%;height:auto;background:transparent}
.bar{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center;margin:.5rem 0}
button{font:inherit;min-width:2.5rem;padding:.25rem .7rem;color:var(--text);background:var(--box);border:1px solid var(--line);border-radius:.3rem;cursor:pointer}
.map{display:block;width:100%;height:6rem;background:var(--box);border:1px solid var(--line);border-radius:.3rem;touch-action:none;cursor:grab}
.map rect{stroke:var(--ground);stroke-width:1;vector-effect:non-scaling-stroke}
.map .chosen{stroke:var(--focus);stroke-width:3}
.ro{fill:var(--ro);color:var(--ro)}.wo{fill:var(--wo);color:var(--wo)}.rw{fill:var(--rw);color:var(--rw)}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px}
table{border-collapse:collapse;margin-top:.5rem}td,th{text-align:left;padding:.15rem 1rem .15rem 0;border-bottom:1px solid var(--box)}
td button{padding:0 .5rem}
#events:empty::before{content:'nothing so far';color:var(--quiet)}
`
