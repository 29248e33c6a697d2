package cluster

// State is the state of a node, a replica or a spare. Each is named here and nowhere else.
type State string

// The states of a replica.
const (
	Bootstrapping State = "BOOTSTRAPPING"
	CatchingUp    State = "CATCHING_UP"
	InSync        State = "IN_SYNC"
	Lagging       State = "LAGGING"
	Blank         State = "BLANK"
	FailedState   State = "FAILED" // also of nodes
)

// The states of a node.
const (
	Up       State = "UP"
	Suspect  State = "SUSPECT"
	Draining State = "DRAINING"
)

// The states of a spare.
const (
	Standby  State = "STANDBY"
	Recovery State = "RECOVERY"
	Active   State = "ACTIVE"
)

// Unknown is said of what could not be asked. It is a state of the knowledge, not of the thing, so no transition leads to it.
const Unknown State = "UNKNOWN"

// Transition is one permitted change of state and its cause.
type Transition struct {
	From, To State
	Cause    string
}

// ReplicaTransitions are all the ways a replica's state may change.
func ReplicaTransitions() []Transition {
	return []Transition{
		{Bootstrapping, CatchingUp, "the first state has been copied, or the log reaches back far enough"},
		{CatchingUp, InSync, "it durably holds all the primary had appended, and the control plane took it into the in-sync set"},
		{InSync, Lagging, "its ack is older than the timeout and the control plane took it out of the in-sync set"},
		{Lagging, InSync, "it caught up and the control plane took it back"},
		{Lagging, CatchingUp, "its stream broke and began anew"},
		{InSync, CatchingUp, "a new reign began and it has not yet been heard in it"},
		{Bootstrapping, FailedState, "its node was declared FAILED"},
		{CatchingUp, FailedState, "its node was declared FAILED"},
		{InSync, FailedState, "its node was declared FAILED"},
		{Lagging, FailedState, "its node was declared FAILED"},
		{FailedState, CatchingUp, "its node came back with its disk"},
		{FailedState, Blank, "its node came back with another disk, or with less than it had acknowledged"},
		{CatchingUp, Blank, "its log ends below what it had acknowledged, or is damaged"},
		{InSync, Blank, "its log ends below what it had acknowledged, or is damaged"},
		{Lagging, Blank, "its log ends below what it had acknowledged, or is damaged"},
		{Blank, Bootstrapping, "the primary sends it a snapshot"},
	}
}

// NodeTransitions are all the ways a node's state may change.
func NodeTransitions() []Transition {
	return []Transition{
		{Up, Suspect, "a probe failed"},
		{Suspect, Up, "a probe was answered"},
		{Suspect, Draining, "a probe was answered, and an operator's word stands"},
		{Suspect, FailedState, "silent for the failure timeout"},
		{FailedState, Up, "a probe was answered"},
		{FailedState, Draining, "a probe was answered, and an operator's word stands"},
		{Up, Draining, "an operator asked"},
		{Draining, Up, "an operator took it back"},
		{Draining, Suspect, "a probe failed"},
	}
}

// SpareTransitions are all the ways a spare's state may change.
func SpareTransitions() []Transition {
	return []Transition{
		{Standby, Recovery, "chosen for a failed shard"},
		{Recovery, Active, "it applied the rest of the log and was crowned or took its place"},
		{Recovery, Standby, "the failed replica came back first"},
	}
}

// May says whether the table permits the change.
func May(table []Transition, from, to State) bool {
	for _, t := range table {
		if t.From == from && t.To == to {
			return true
		}
	}
	return false
}
