// Package recording keeps what a node saw of its cluster: a ring of state frames in files, and reads it again.
//
//	WatchState ── the same frames ──► Ring ──► <data-dir>/recording/00000017-0192f0….frames ──► Recording: Watch, At
//
// A segment is a file of records, written once from front to end and then only read or removed:
//
//	record = length uint32 · HLC uint64 · one zstd frame of that length with its checksum      (little endian)
//
// The first record of a segment is compressed by itself; its content is the dictionary of all others, since one second of a
// cluster looks like the next: some hundred bytes hold a frame of ten thousand.
//
// What the room promises:
//   - The ring never holds more bytes than it was given; the oldest segment goes first.
//   - Segments are in the order of their number, which is the order of writing. Where a clock was set back, a new segment begins, and what
//     was written last is what At finds.
//   - What a crash cut off or a disk changed is never shown: a reader ends that segment at its last whole record, says so, and goes on with the
//     next one. A writer never touches a file of an earlier run, it begins a new one.
//   - Nothing is synced: it tells the past, and no promise hangs on it.
//
// A Ring is used by one goroutine, a Recording by any number of them, also while a Ring writes to the same directory.
package recording
