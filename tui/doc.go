// Package tui is the live screens of a cluster: `themis-cli top`.
//
//	Source ── frames ──► model ── Scene ──► screen ── lines ──► palette ──► terminal
//	keys, size, clock ─────┘                  └── lines ──► plain text, where there is no terminal
//
// What the room promises:
//   - A screen is a function: the same Scene, look and size give the same lines, and no line is wider than the window. It reads no
//     clock and asks nobody. Every word and figure is the report's.
//   - Update does no I/O and never waits. Frames and the time come in as messages; one goroutine of Run, which waits for it, reads
//     the Source.
//   - A line says what a piece of text means (fine, caution, alarm), never its colour; the palette turns that into colours for light
//     and dark, and nothing is told by colour alone.
//   - What the cluster sends is shown, never obeyed: characters that don't print reach no terminal.
//   - What isn't known is ?, never 0. When the source falls silent the screen says for how long, and how old is what it shows.
package tui
