// Package control is the one owner of the keys below /themis/<cluster-id>/: the cluster map in etcd, and etcd itself where a
// node carries a member of it.
//
//	callers ──► Map    meaning: records, transactions, watches, leases; written once
//	             │
//	             ▼
//	            KV     revisions, compare-and-set, watches from a revision, leases; two twins that pass one suite
//	           /  \
//	       etcd    Memory (tests, simulations)
//	        │
//	      Server (embedded member)   or   the user's own etcd cluster
//
// What it promises:
//
//   - Every change is a transaction that compares the revision of the record that the caller saw, and where the controller
//     decides also the controller's record: a stale caller is refused with ErrStale, a deposed controller with ErrDeposed,
//     and nothing has been changed.
//   - An answer that never came is never guessed. It is resolved by reading the record's own history: the first change after
//     the revision that was compared is either ours or the proof that ours can never happen. Only when time runs out before
//     that is the answer ErrUnknownOutcome.
//   - A View is whole: all records at one revision. A Watch never misses the last one and never blocks the store.
//   - A Lease is counted from the moment its renewal was sent, on the monotonic clock, less a margin for drift.
//
// Everything is safe for concurrent use. Errors that people act on are *themis.Error; errors.Is finds the sentinels in them.
// Times are durations, sizes are bytes, revisions are the store's.
package control
