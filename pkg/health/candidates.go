package health

import "github.com/themisdb/themis/pkg/themis"

// Candidates is the answer and the JSON of `shard failover candidates`: who would lead the shard if its primary were gone now, and the
// rule that speaks for or against each copy.
type Candidates struct {
	Shard   themis.ShardID `json:"shard"`
	Epoch   themis.Epoch   `json:"epoch"`
	Mode    themis.Mode    `json:"mode"`
	Primary themis.NodeID  `json:"primary"`  // empty: none
	Winner  themis.NodeID  `json:"winner"`   // empty: nobody, and why says what is missing
	Why     string         `json:"why"`      // empty: somebody would win
	MayLose bool           `json:"may_lose"` // acknowledged writes may be missing from the winner's log
	Need    int            `json:"need"`     // ballots that count
	Got     int            `json:"got"`
	Copies  []Candidate    `json:"copies"`
}

// Candidate is one copy in it.
type Candidate struct {
	Node      themis.NodeID    `json:"node"`
	Storage   themis.StorageID `json:"storage_id"`
	Wins      bool             `json:"wins"`
	Rule      string           `json:"rule"`
	Detail    string           `json:"detail"`
	Seq       *themis.Seq      `json:"seq"`        // the last on its disk; null: not known
	LastEpoch *themis.Epoch    `json:"last_epoch"` // of that entry
	AgeMs     *int64           `json:"age_ms"`     // of what is known of it
}
