// Package replication is one shard's copy on one node: the log it keeps, the store it feeds, and what it does as primary or
// as follower.
//
//	client ─► Write ─► log ──frames──► followers' logs        a write is answered when the mode's rule holds
//	                    │  ◄──acks────                        (Reign.Commit); followers apply up to the commit seq
//	                    └─ commit ─► store
//
// The decisions are pure: Reign (what is committed, who counts, who may read), Receive and Vote (what a replica answers),
// Common (where two logs part). TestSeeds runs them through random faults; the rest of the package carries them out and is
// kept thin. A Replica is safe for concurrent use; everything it starts ends with its Run.
package replication
