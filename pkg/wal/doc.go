// Package wal keeps one shard's entries in order and on disk.
//
// The log is a directory: segments in the format of tidwall/wal, which hold exactly one frame per record, and three small files.
//
//	00000000000000000001   a segment, named by the seq of its first entry: { uvarint size | frame } …
//	LOG                    identity (cluster, shard, storage), base position, epoch starts; replaced whole, with a checksum
//	MARK                   the highest seq this replica has made durable and may have acknowledged; two alternating slots
//	LOCK                   held by flock while the log is open
//
// A frame, little endian:
//
//	| len u32 | crc32c u32 | version u8 | kind u8 | flags u16 | seq u64 | lsn u64 | epoch u64 | hlc u64 | commit u64 | tags | payload |
//
// len counts what follows the first eight bytes, crc32c (Castagnoli) covers the same bytes. seq grows by exactly 1, lsn is the
// sum of all frame bytes before the frame (the size prefix is not counted), epoch never falls, commit is below seq.
//
// There is one writer and any number of readers. A primary calls SetEpoch and then Begin and Wait from any number of goroutines;
// a follower calls AppendFrames from one. Changing sides needs no reopening: AppendFrames and TruncateBack end the reign, and
// Begin is refused until the next SetEpoch. Every other method may be called at any time from any goroutine, except that
// a Scanner belongs to one goroutine.
//
// Wait and AppendFrames return nil only after the fsync of those very entries and after MARK names them. The first waiter of
// a batch leads it: it calls Gather and Tap, writes, syncs and wakes the others; there is no goroutine of the log's own.
//
// Open cuts a torn tail and says what it cut. A bad frame with a good one behind it is no tail: that is *CorruptError, and
// nothing is changed. A log that ends below what it once had durable is blank: Recovery and Blank say so, SetEpoch is
// refused, and it stays so across restarts until the log has grown past the mark again, Reset, or ClearBlank.
//
// A failed write or fsync is final. The log is poisoned: all that wait and all that come later get an error for which
// errors.Is(err, ErrPoisoned) holds. Nothing is tried again.
package wal
