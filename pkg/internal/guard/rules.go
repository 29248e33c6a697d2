package guard

// Rule is the name of one rule.
type Rule string

// The rules of replication and election. Each stands in docs/guards.md with the test that goes red without it.
const (
	ShrinkFirst    Rule = "shrink-first"    // a member leaves the ISR in the control plane before an ack counts without it
	ISRVersion     Rule = "isr-version"     // an ISR change compares the record version the primary knew
	MaximalISR     Rule = "maximal-isr"     // from the proposal of an addition the primary waits for the union of both sets
	RefusedOwn     Rule = "refused-own"     // the refusal of a proposal settles that one alone, not another that is on its way by then
	StaleCounts    Rule = "stale-counts"    // a proposal whose record has changed counts until the newer record is learned
	RescueFirst    Rule = "rescue-first"    // what a copy has and the shard's log lacks is saved before it goes
	SyncWaits      Rule = "sync-waits"      // a write is acknowledged once every in-sync copy has it (SEMI_SYNC: k followers), ASYNC aside
	FailedPrimary  Rule = "failed-primary"  // the shards of a primary on a FAILED node get another
	FailedReplaced Rule = "failed-replaced" // a copy on a FAILED node that writes wait for is made anew on another
	VerdictCleared Rule = "verdict-cleared" // a node that answers again is FAILED no more
	TakeOver       Rule = "take-over"       // another control node takes over from a controller that has fallen silent
	LogSynced      Rule = "log-synced"      // what is appended is synced before it counts as durable
	OwnSync        Rule = "own-sync"        // nothing is committed before the primary's own disk has it
	FollowerSync   Rule = "follower-sync"   // a follower acknowledges what it was shipped once it is synced
	RescuedSync    Rule = "rescued-sync"    // what is rescued is synced, with its name, before it goes from the log
	ModeWaits      Rule = "mode-waits"      // another mode or k is proposed once everything committed is held as it demands
	ModeHolds      Rule = "mode-holds"      // under writes without a pause what is committed waits for a stronger mode, for a while
	ModeBoth       Rule = "mode-both"       // from the proposal of a policy until its outcome is known both policies count
	Fence          Rule = "fence"           // a follower refuses entries of an epoch lower than it has seen
	Promise        Rule = "promise"         // a ballot makes the voter refuse older epochs from then on
	Barrier        Rule = "barrier"         // older entries are committed only by committing an entry of the own epoch
	Incarnation    Rule = "incarnation"     // membership belongs to a disk
	Ballots        Rule = "ballots"         // SEMI_SYNC needs the ballots of all voters but k
	ISRElection    Rule = "isr-election"    // SYNC: the winner is a member of the ISR
	MostAdvanced   Rule = "most-advanced"   // the most advanced ballot wins
	BlankNoBallot  Rule = "blank-ballot"    // a replica that lost anything gives no ballot
	ISRFloor       Rule = "isr-floor"       // below 1 + k no client write is committed
	FailedFloor    Rule = "failed-floor"    // below 1 + k only a FAILED member leaves the ISR
	FloorVerdict   Rule = "floor-verdict"   // and only by a verdict that stands in the map, not by one that the primary saw once
	LeaseWait      Rule = "lease-wait"      // a winner waits out the read leases that voters may still have promised
	ReadLease      Rule = "read-lease"      // no read without the lease or a confirmation round
	RestartVote    Rule = "restart-vote"    // a voter that restarted gives no ballot for one lease length
	CommitOnly     Rule = "commit-only"     // followers apply no further than the commit seq
	Lineage        Rule = "lineage"         // a divergent tail is cut by epoch lineage
	FirstReign     Rule = "first-reign"     // the first reign needs every voter
	Freeze         Rule = "freeze"          // a reign that is to be handed over lets no new write in
	ReadyResign    Rule = "ready-resign"    // only a reign that had committed its first entry frees its successor from waiting out leases
	LeaseNote      Rule = "lease-note"      // a replica notes that its read leases are over only when they are
	FreeLease      Rule = "free-lease"      // a primary that freed a follower relies on none of its read leases any more
	BootCheck      Rule = "boot"            // a primary that restarted is crowned anew
	Resigned       Rule = "resigned"        // a shard whose primary's reign is over for good is given another
	BarrierApplied Rule = "barrier-applied" // a new reign looks at request ids and conditions only once all before it is applied

	UnknownStays    Rule = "unknown-stays"    // a refused repetition says nothing of an attempt whose outcome is unknown
	NodeLease       Rule = "node-lease"       // a primary whose node's lease in the control plane has ended answers nothing
	NearFloor       Rule = "near-floor"       // a SYNC primary that hears fewer than k of its in-sync set appends no client's write
	ControllerLease Rule = "controller-lease" // a controller that is cut off from the control plane stops, its heartbeat too
	ControllerDoes  Rule = "controller-does"  // a controller none of whose transactions is confirmed stops, its heartbeat too
	ControllerHeard Rule = "controller-heard" // nobody takes over from a controller that others hear
	PeerPatience    Rule = "peer-patience"    // connections between members of the control plane that are dead end soon
	WatchBehind     Rule = "watch-behind"     // a watch of the map that falls behind what others are answered is begun anew elsewhere

	// Of disks.
	DiskFull       Rule = "disk-full"       // a primary whose disk is full refuses writes before it is in the way of its own log
	FullMember     Rule = "full-member"     // no write is appended that a member with a full disk would have to acknowledge
	FullGoes       Rule = "full-goes"       // a primary with a full disk gives way where enough other copies have room
	FullReplaced   Rule = "full-replaced"   // a copy on a full disk that writes wait for is made anew elsewhere
	FullFits       Rule = "full-fits"       // and only where that leaves room
	FullEnough     Rule = "full-enough"     // and no more copies leave a full disk than make room on it
	FullJoin       Rule = "full-join"       // a copy that joins on a disk that is full by now is given up
	NoRoomNoFrames Rule = "no-room"         // a follower without room takes no frames
	FaultIsBlank   Rule = "fault-is-blank"  // a copy whose write or sync failed is blank in the next process
	BrokenLeaves   Rule = "broken-leaves"   // a copy that stopped for good leaves the in-sync set, as one on a FAILED node does
	BrokenReplaced Rule = "broken-replaced" // a copy that stopped for good is made anew elsewhere
	Sealed         Rule = "sealed"          // node.json and REPLICA.json are read only with their checksum
	PromiseReread  Rule = "promise-reread"  // a copy that begins empty promises the epoch of the control plane's record
	InstallPieces  Rule = "install-pieces"  // an install goes on only with files of the very checkpoint that it sends
	CollectionNow  Rule = "collection-now"  // a collection that the map here lacks is asked for before it is taken to have no documents
	CutSaysSo      Rule = "cut-says-so"     // a node that is cut off from the control plane keeps no client waiting that can ask elsewhere
	UnusedOnly     Rule = "unused-only"     // a copy's directory is removed only when the map, read anew, has no copy of the shard on this disk
	UnusedCovered  Rule = "unused-covered"  // and when the primary's log has all that the copy's log holds
	UnusedRescued  Rule = "unused-rescued"  // and when nothing was rescued in it
	UnusedOnFull   Rule = "unused-on-full"  // a copy that nothing speaks for goes soon from a disk that is full
	UnusedAnew     Rule = "unused-anew"     // and never by what was read of it before it was opened again
	CopyRescued    Rule = "copy-rescued"    // and by an operator's word only when what the primary's lacks is in rescued/
	OldDisk        Rule = "old-disk"        // a disk that is older than the control plane has seen it is not used
	EmptyIsBlank   Rule = "empty-is-blank"  // a copy that begins empty after the first reign is blank
	AckedLost      Rule = "acked-lost"      // a copy that lacks what it acknowledged in this reign is blank
	AskedCounts    Rule = "asked-counts"    // a follower that is asked to cut back counts for no more than that, before it answers
	NewestStream   Rule = "newest-stream"   // a follower does not go back to a stream that was opened before the one it follows
	LogDamage      Rule = "log-damage"      // a copy whose log is found damaged while it is served does not go on as if it were whole
	OpenSynced     Rule = "open-synced"     // what a log's opening finds in memory is synced before it counts as durable
	TornOrDamaged  Rule = "torn-or-damaged" // what was never synced is a torn tail, whatever stands behind it
	BlankFirst     Rule = "blank-first"     // a copy is blank on disk before its damaged log is moved away
	AgeGrows       Rule = "age-grows"       // a disk's age is counted on soon after its copies took something in
	OldMember      Rule = "old-member"      // a member of the control plane on such a disk does not even start
)

// The rules of input.
const (
	ConfigFaults  Rule = "config-faults"  // a configuration with an unknown key, a wrong type or an impossible value is refused
	WriteChecked  Rule = "write-checked"  // a document that is too large or no JSON, and a bad name, are refused before anything is done
	FrameChecksum Rule = "frame-checksum" // a frame of the log is read only with its checksum
)

// The rules of identity and membership.
const (
	OneIdentity Rule = "one-identity" // of two processes with one identity the second is refused
	OwnCluster  Rule = "own-cluster"  // a data directory of another cluster is refused
	RenewedKey  Rule = "renewed-key"  // a node's record comes to carry its new key

	AskNodes Rule = "ask-nodes" // a node that finds no member of the control plane asks other nodes where they are

	ProvenAddress Rule = "proven-address" // a node's record changes its address only to where the node proves to be

	BallotAsker       Rule = "ballot-asker"       // a ballot is given to the controller alone, under its own certificate
	BallotNonce       Rule = "ballot-nonce"       // a ballot answers the very question that was asked
	BallotEpoch       Rule = "ballot-epoch"       // and is for the epoch that was asked for
	BallotSignature   Rule = "ballot-signature"   // and is signed by a key that the voter registered
	StreamCertificate Rule = "stream-certificate" // a primary's stream comes under the primary's certificate
	StreamPrimary     Rule = "stream-primary"     // and from the primary that the map names
	PeerNode          Rule = "peer-node"          // a node that is expected is known by its certificate
	PeerChain         Rule = "peer-chain"         // a peer's certificate is of the cluster's CA and valid now
	PeerCluster       Rule = "peer-cluster"       // and of this cluster
	BearerSigned      Rule = "bearer-signed"      // a bearer token is signed by the key of the certificate that it carries
	Capability        Rule = "capability"         // and grants what is asked
	ControlName       Rule = "control-name"       // etcd admits nodes alone
)
