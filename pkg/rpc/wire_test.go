package rpc

import (
	"encoding/hex"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
)

var rewrite = flag.Bool("rewrite", false, "write the files of testdata anew")

// wireFiles are the proto files and their goldens: what other implementations hold on to.
var wireFiles = map[string]protoreflect.FileDescriptor{
	"shard_rpc.txt": sharding.File_themis_sharding_shard_rpc_proto,
	"node.txt":      nodev1.File_themis_node_v1_node_proto,
}

// describe lists the rpcs and the fields of a file, each message with the bytes of one example in which every field is set.
func describe(f protoreflect.FileDescriptor) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "package %s, syntax %s\n", f.Package(), f.Syntax())
	for i := range f.Services().Len() {
		s := f.Services().Get(i)
		fmt.Fprintf(&b, "\nservice %s\n", s.Name())
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			fmt.Fprintf(&b, "  %s(%s) %s\n", m.Name(), streamed(m.IsStreamingClient(), m.Input()), streamed(m.IsStreamingServer(), m.Output()))
		}
	}
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		fmt.Fprintf(&b, "\nmessage %s\n", m.Name())
		for j := range m.Fields().Len() {
			fmt.Fprintf(&b, "  %s\n", field(m.Fields().Get(j)))
		}
		example, err := encoded(filled(m, 0))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "  = %s\n", hex.EncodeToString(example))
	}
	return b.String(), nil
}

func streamed(is bool, m protoreflect.MessageDescriptor) string {
	if is {
		return "stream " + string(m.Name())
	}
	return string(m.Name())
}

func field(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		kind = fmt.Sprintf("map<%s, %s>", f.MapKey().Kind(), f.MapValue().Kind())
	case f.Message() != nil:
		kind = string(f.Message().Name())
	}
	if f.IsList() {
		kind = "repeated " + kind
	}
	if f.HasOptionalKeyword() {
		kind = "optional " + kind
	}
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		kind = "one of " + string(o.Name()) + ": " + kind
	}
	return fmt.Sprintf("%d %s %s", f.Number(), kind, f.Name())
}

// filled is a message in which every field has a value made of its number. Of a oneof the last field stays.
func filled(m protoreflect.MessageDescriptor, depth int) protoreflect.Message {
	out := dynamicpb.NewMessage(m)
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch {
		case f.IsMap():
			out.Mutable(f).Map().Set(scalar(f.MapKey()).MapKey(), scalar(f.MapValue()))
		case f.Message() != nil && depth > 3: // deep enough
		case f.Message() != nil && f.IsList():
			out.Mutable(f).List().Append(protoreflect.ValueOfMessage(filled(f.Message(), depth+1)))
		case f.Message() != nil:
			out.Set(f, protoreflect.ValueOfMessage(filled(f.Message(), depth+1)))
		case f.IsList():
			out.Mutable(f).List().Append(scalar(f))
		default:
			out.Set(f, scalar(f))
		}
	}
	return out
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := uint64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(f.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0xff, byte(n)})
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n) + 0.5)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32 - uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(math.MaxUint64 - n)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind:
		return protoreflect.ValueOfInt64(-int64(n)) //nolint:gosec // a field number
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(-int32(n)) //nolint:gosec // a field number
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(f.Enum().Values().Len() - 1).Number())
	}
	panic("no example of " + f.Kind().String())
}

// encoded is what our codec puts on the wire for it: the generated type of the message in the order of field numbers.
func encoded(m protoreflect.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		return nil, err
	}
	generated, err := newMessage(m.Descriptor().FullName())
	if err != nil {
		return nil, err
	}
	c := newCodec()
	c.min = 0
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, generated); err != nil {
		return nil, err
	}
	if !proto.Equal(generated, m.Interface()) {
		return nil, fmt.Errorf("%s: the generated type reads %v", m.Descriptor().Name(), generated)
	}
	return b, nil
}

// TestWireGolden holds the names and numbers of every rpc, message and field, and the bytes that they make. A line that changes breaks every
// client that was built before; lines may only be added.
func TestWireGolden(t *testing.T) {
	for name, f := range wireFiles {
		t.Run(name, func(t *testing.T) {
			got, err := describe(f)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "wire", name)
			if *rewrite {
				if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			has := map[string]bool{}
			for line := range strings.Lines(got) {
				has[line] = true
			}
			for line := range strings.Lines(string(want)) {
				if !has[line] {
					t.Errorf("gone from the wire: %s", line)
				}
			}
			if got != string(want) && !t.Failed() {
				t.Error("the wire has grown, or stands in another order: write the golden anew with -rewrite, and read the difference")
			}
		})
	}
}

// fixedNumbers are the messages and rpcs that were given to us with their numbers, written down by hand.
const fixedNumbers = `
ReplicateData(ReplicateRequest) ReplicateResponse
ReplicateDataStream(stream ReplicateChunk) ReplicateResponse
PrepareTransaction(PrepareRequest) PrepareResponse
CommitTransaction(CommitRequest) CommitResponse
AbortTransaction(AbortRequest) AbortResponse
MigrateData(MigrateRequest) stream MigrateChunk
GetShardStatus(StatusRequest) StatusResponse
HealthCheck(HealthRequest) HealthResponse
GossipExchange(GossipMessage) GossipMessage
RequestVote(VoteRequest) VoteResponse
AppendEntries(AppendEntriesRequest) AppendEntriesResponse
ReplicateRequest: 1 string shard_id; 2 repeated Entity entities; 3 uint64 timestamp_ns; 4 string transaction_id
ReplicateChunk: 1 bytes data; 2 uint32 chunk_index; 3 bool is_last
ReplicateResponse: 1 bool success; 2 uint64 replicated_count; 3 string error
PrepareRequest: 1 string transaction_id; 2 string coordinator_shard_id; 3 repeated string participant_shards; 4 bytes transaction_data
PrepareResponse: 1 bool vote_commit; 2 string error
CommitRequest: 1 string transaction_id
CommitResponse: 1 bool success; 2 string error
StatusRequest: 1 bool include_metrics
StatusResponse: 1 string shard_id; 2 string state; 3 uint64 token_range_start; 4 uint64 token_range_end; 5 ShardMetrics metrics
ShardMetrics: 1 uint64 entity_count; 2 uint64 storage_size_bytes; 3 double cpu_usage_percent; 4 double memory_usage_bytes; 5 uint64 rpc_requests_total; 6 double avg_latency_ms
Entity: 1 string uuid; 2 string collection; 3 bytes data; 4 uint64 version; 5 uint64 timestamp_ns
AbortRequest: 1 string transaction_id; 2 string reason
AbortResponse: 1 bool success; 2 string error
MigrateRequest: 1 string migration_id; 2 string source_shard_id; 3 string target_shard_id; 4 uint64 token_range_start; 5 uint64 token_range_end; 6 string from_key; 7 string to_key; 8 uint32 batch_size; 9 uint32 resume_from_chunk; 10 uint64 rate_limit_keys_per_sec
MigrateChunk: 1 bytes data; 2 uint32 chunk_index; 3 bool is_last; 4 uint32 crc32; 5 uint64 keys; 6 string last_key; 7 uint64 snapshot_seq
HealthRequest: 1 string shard_id
HealthResponse: 1 bool healthy; 2 string state; 3 uint64 epoch; 4 uint64 last_seq; 5 string reason
GossipMessage: 1 string sender_id; 2 uint64 timestamp_ns; 3 repeated NodeState nodes; 4 uint64 routing_version; 5 uint64 crl_number
VoteRequest: 1 uint64 term; 2 string candidate_id; 3 uint64 last_log_index; 4 uint64 last_log_term; 5 string shard_id; 6 bytes nonce; 7 uint64 timestamp_ns; 8 bytes signature
VoteResponse: 1 uint64 term; 2 bool vote_granted; 3 string voter_id; 4 string reason; 5 bytes nonce; 6 bytes signature
AppendEntriesRequest: 1 uint64 term; 2 string leader_id; 3 uint64 prev_log_index; 4 uint64 prev_log_term; 5 repeated bytes entries; 6 uint64 leader_commit; 7 uint64 epoch
AppendEntriesResponse: 1 uint64 term; 2 bool success; 3 uint64 match_index; 4 string error`

// TestFixedNumbers holds the contract that the sources fix against the descriptors, whatever the golden says.
func TestFixedNumbers(t *testing.T) {
	f := sharding.File_themis_sharding_shard_rpc_proto
	if f.Package() != "themis.sharding" || f.Syntax() != protoreflect.Proto3 {
		t.Errorf("package %s, %s", f.Package(), f.Syntax())
	}
	got, err := describe(f)
	if err != nil {
		t.Fatal(err)
	}
	messages := map[string]string{}
	name := ""
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if rest, is := strings.CutPrefix(line, "message "); is {
			name = rest
		}
		if name != "" {
			messages[name] += line + "\n"
		}
	}
	for line := range strings.Lines(strings.TrimSpace(fixedNumbers)) {
		line = strings.TrimSpace(line)
		message, fields, is := strings.Cut(line, ": ")
		if !is {
			if !strings.Contains(got, "  "+line+"\n") {
				t.Errorf("no rpc %s", line)
			}
			continue
		}
		for want := range strings.SplitSeq(fields, "; ") {
			if !strings.Contains(messages[message], "  "+want+"\n") && !strings.Contains(messages[message], "  "+strings.Replace(want, " ", " optional ", 1)+"\n") {
				t.Errorf("%s has no field %s:\n%s", message, want, messages[message])
			}
		}
	}
}

func newMessage(name protoreflect.FullName) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, err
	}
	return t.New().Interface(), nil
}
