package rpc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
)

// Method is what the transport knows about one rpc.
type Method struct {
	Operation string   // in metrics and logs
	Needs     []string // capabilities, one of which is enough; empty: any certificate of the cluster
	Open      bool     // asks for no certificate
	Changes   bool     // may change something: a lost answer is OUTCOME_UNKNOWN, the request is stamped
	Fresh     bool     // refused without a stamp, with an old one, or with one that was seen before
	Long      bool     // a stream that lives as long as its ends: no duration is measured, no deadline is added
}

// methods is the one table of who may call what. What is not in it is denied.
//
// The rpcs that replicate are strict: `write` does not let anyone speak as a replica (C-06). The ones that are fenced by
// epochs and signed nonces, or repeatable under a request id, don't ask for fresh stamps: a node whose wall clock is wrong
// must still be able to follow, vote and write.
var methods = map[string]Method{
	sharding.ShardService_ReplicateData_FullMethodName:       {Operation: "replicate", Needs: []string{pki.Replicate}, Changes: true, Fresh: true},
	sharding.ShardService_ReplicateDataStream_FullMethodName: {Operation: "replicate_stream", Needs: []string{pki.Replicate}, Changes: true, Fresh: true},
	sharding.ShardService_PrepareTransaction_FullMethodName:  {Operation: "prepare", Needs: []string{pki.Write}, Changes: true, Fresh: true},
	sharding.ShardService_CommitTransaction_FullMethodName:   {Operation: "commit", Needs: []string{pki.Write}, Changes: true, Fresh: true},
	sharding.ShardService_AbortTransaction_FullMethodName:    {Operation: "abort", Needs: []string{pki.Write}, Changes: true, Fresh: true},
	sharding.ShardService_MigrateData_FullMethodName:         {Operation: "migrate", Needs: []string{pki.Admin}, Long: true},
	sharding.ShardService_GetShardStatus_FullMethodName:      {Operation: "status"},
	sharding.ShardService_HealthCheck_FullMethodName:         {Operation: "health"},
	sharding.ShardService_GossipExchange_FullMethodName:      {Operation: "gossip"},
	sharding.ShardService_RequestVote_FullMethodName:         {Operation: "request_vote", Needs: []string{pki.Replicate}, Changes: true},
	sharding.ShardService_AppendEntries_FullMethodName:       {Operation: "append_entries", Needs: []string{pki.Replicate}, Changes: true},

	nodev1.ReplicationService_Replicate_FullMethodName: {Operation: "ship", Needs: []string{pki.Replicate}, Changes: true, Long: true},
	nodev1.ReplicationService_Install_FullMethodName:   {Operation: "install", Needs: []string{pki.Replicate}, Changes: true, Long: true},
	nodev1.ReplicationService_Held_FullMethodName:      {Operation: "held", Needs: []string{pki.Replicate}, Long: true},

	nodev1.DocumentService_Write_FullMethodName:       {Operation: "write", Needs: []string{pki.Write}, Changes: true},
	nodev1.DocumentService_WriteStream_FullMethodName: {Operation: "write_stream", Needs: []string{pki.Write}, Changes: true, Long: true},
	nodev1.DocumentService_Read_FullMethodName:        {Operation: "read", Needs: []string{pki.Read}},
	nodev1.DocumentService_Scan_FullMethodName:        {Operation: "scan", Needs: []string{pki.Read}, Long: true},

	nodev1.AdminService_Describe_FullMethodName:      {Operation: "describe"},
	nodev1.AdminService_Bootstrap_FullMethodName:     {Operation: "bootstrap", Needs: []string{pki.Admin}, Changes: true, Fresh: true},
	nodev1.AdminService_GetMap_FullMethodName:        {Operation: "get_map"},
	nodev1.AdminService_GetState_FullMethodName:      {Operation: "get_state"},
	nodev1.AdminService_WatchState_FullMethodName:    {Operation: "watch_state", Long: true},
	nodev1.AdminService_GetLocalState_FullMethodName: {Operation: "get_local_state"},
	nodev1.AdminService_ListEvents_FullMethodName:    {Operation: "list_events"},
	nodev1.AdminService_ApplyConfig_FullMethodName:   {Operation: "apply_config", Needs: []string{pki.Admin}, Changes: true, Fresh: true},
	nodev1.AdminService_Act_FullMethodName:           {Operation: "act", Needs: []string{pki.Admin}, Changes: true, Fresh: true},
	nodev1.AdminService_Join_FullMethodName:          {Operation: "join", Open: true, Changes: true},
}

// MethodOf finds the row of an rpc by its full name, /package.Service/Method.
func MethodOf(full string) (Method, bool) {
	m, ok := methods[full]
	return m, ok
}

// methodName is the last part of a full name.
func methodName(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// capabilityNouns are the words of refusals; "replication" is the contract's.
var capabilityNouns = map[string]string{pki.Replicate: "replication"}

// missing is the short text of a refusal, in the words of the contract: "Shard does not have replication capability".
func (m Method) missing() string {
	nouns := make([]string, len(m.Needs))
	for i, c := range m.Needs {
		nouns[i] = c
		if noun, ok := capabilityNouns[c]; ok {
			nouns[i] = noun
		}
	}
	who := "Certificate"
	if len(m.Needs) == 1 && m.Needs[0] == pki.Replicate {
		who = "Shard"
	}
	return fmt.Sprintf("%s does not have %s capability", who, strings.Join(nouns, " or "))
}

// allows answers whether a certificate may call.
func (m Method) allows(who pki.Info) bool {
	return len(m.Needs) == 0 || slices.ContainsFunc(m.Needs, who.Has)
}
