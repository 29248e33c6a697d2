// Package client is the Go client of a cluster: it finds a living node, keeps the map, and goes straight to the primary of a
// document's shard.
//
//	endpoints ── Describe ──► a living node ── GetMap, once a second and when an answer says so ──► Map
//	key ── token ── Map ──► shard ──► primary ── Write, Read, Scan ──► answer
//	                                     └─ unreachable: the next try goes through another node, which passes it on
//
// What the room promises:
//   - Every write carries a request id, so that it may be repeated: the same id has one effect. A write is tried again inside
//     its context as long as it surely was not done, or may be repeated; then the error is the last one.
//   - A write that may have been done is OUTCOME_UNKNOWN and nothing else: once an attempt had no answer, only success ends the
//     doubt.
//   - An attempt at a primary ends as soon as the map names another one, so a node that hangs holds nobody up for longer than the
//     cluster takes to replace it.
//   - A context without a deadline gets Options.Timeout.
//
// All errors are *themis.Error. A Client and a Writer may be used by any number of goroutines; those that they start end before
// Close returns.
package client
