// Package rpc is how nodes, tools and clients talk: gRPC over mutually verified TLS 1.3, the services of pkg/rpc/proto, and our
// errors on both sides of it.
//
//	handler error ─► *themis.Error ─► status + Problem ──wire──► status + Problem ─► *themis.Error ─► caller
//	no answer of ours (lost, refused, timed out) ────────────► Call.Error: was it sent? does it change anything? ─┘
//
// What the room promises:
//   - A Server runs a handler only for a verified certificate that has the capability of the one table of methods; what is not
//     in the table is denied. Every refusal names what was missing and whose certificate lacked it. Join alone asks for none.
//   - A call that fails is a *themis.Error. OUTCOME_UNKNOWN is a change that was handed to the transport and was not answered by
//     our code, and nothing else: what was not sent, or was turned away before it ran, has another code.
//   - A handler that panics ends its call, not the process.
//   - A Pool keeps one channel for each (address, expected node, lane, compression), bounded per address and in all. A refused
//     connection is reported at once (IsRefused); a slow one takes ConnectTimeout.
//   - Changing calls are stamped with time and nonce; a Server refuses the stale and the repeated where nothing else
//     fences them.
//   - Messages are at most MaxMessageBytes. What is sent must not be changed after Send: large fields go by reference.
//
// Server and Pool may be used by any number of goroutines. The goroutines of a Server end before Run returns, those of a Pool's
// channels with Close. Both follow the certificates of their pki.Source; Recheck closes what is no longer believed.
package rpc
