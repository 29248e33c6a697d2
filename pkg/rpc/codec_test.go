package rpc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
)

func bulkMessages(size int) []proto.Message {
	data := bytes.Repeat([]byte{7}, size)
	return []proto.Message{
		&nodev1.ReplicateRequest{
			Hello: &nodev1.Hello{ShardId: "shard-1", Epoch: 7, Lineage: []*nodev1.EpochStart{{Epoch: 1, Seq: 1}}}, Frames: data, CommitSeq: 9, SentNs: 1 << 60, Whole: true,
		},
		&nodev1.InstallRequest{File: "000001.sst", Offset: 1 << 40, Data: data, Crc32: 0xFFFFFFFF, EndOfFile: true, Digest: "d", End: &nodev1.InstallEnd{Seq: 3}},
		&nodev1.ReadResponse{Value: data, Version: "v", ShardId: "shard-1", SessionToken: "s", Seq: 3},
		&sharding.MigrateChunk{Data: data, ChunkIndex: 1, IsLast: true, Crc32: 2, Keys: 3, LastKey: "k", SnapshotSeq: 4},
		&sharding.ReplicateChunk{Data: data, ChunkIndex: 1, IsLast: true, Crc32: 2},
	}
}

func plainCodec() encoding.CodecV2 { return encoding.GetCodecV2(protocodec.Name) }

// split makes of b what the transport delivers: many buffers.
func split(b []byte, size int) mem.BufferSlice {
	var s mem.BufferSlice
	for ; len(b) > size; b = b[size:] {
		s = append(s, mem.SliceBuffer(b[:size]))
	}
	return append(s, mem.SliceBuffer(b))
}

// The bytes are protobuf for everybody, both ways, with every field and with fields of later versions.
func TestCodecIsProtobuf(t *testing.T) {
	unknown := protowire.AppendString(protowire.AppendTag(nil, 1999, protowire.BytesType), "from a later version")
	for _, size := range []int{0, 1, bulkMin - 1, bulkMin, 100_000} {
		for _, m := range bulkMessages(size) {
			m.ProtoReflect().SetUnknown(unknown)
			before := proto.Clone(m)
			wire, err := newCodec().Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(m, before) {
				t.Errorf("%T of %d: changed by sending", m, size)
			}
			standard, err := plainCodec().Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				codec encoding.CodecV2
				wire  []byte
			}{"ours reads ours": {newCodec(), wire.Materialize()}, "ours reads theirs": {newCodec(), standard.Materialize()}, "theirs reads ours": {plainCodec(), wire.Materialize()}} {
				got := m.ProtoReflect().New().Interface()
				if err := c.codec.Unmarshal(split(c.wire, 16<<10), got); err != nil || !proto.Equal(got, m) {
					t.Errorf("%T of %d, %s: %v", m, size, name, err)
				}
			}
		}
	}
}

// The table names bytes fields of messages that exist.
func TestBulkTable(t *testing.T) {
	for name, number := range bulk {
		found, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if f := found.Descriptor().Fields().ByNumber(number); f == nil || f.Kind() != protoreflect.BytesKind || f.IsList() || f.HasPresence() {
			t.Errorf("%s field %d is no plain bytes field", name, number)
		}
	}
}

// What was received belongs to the receiver: the transport's buffers are used again at once.
func TestReceivedBytesStay(t *testing.T) {
	for _, piece := range []int{1000, 1 << 30} {
		m := bulkMessages(bulkMin * 4)[0]
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := &nodev1.ReplicateRequest{}
		if err := newCodec().Unmarshal(split(wire, piece), got); err != nil {
			t.Fatal(err)
		}
		clear(wire)
		if !proto.Equal(got, m) {
			t.Error("the message changed with the transport's buffer")
		}
		if frames := got.GetFrames(); cap(frames) != len(frames) {
			t.Error("appending to frames would write over what is behind them")
		}
	}
}

// One message goes to several followers at once.
func TestOneMessageManyReceivers(t *testing.T) {
	m := bulkMessages(1 << 20)[0]
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				if _, err := newCodec().Marshal(m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func TestCodecRefusesOtherThings(t *testing.T) {
	if _, err := newCodec().Marshal("text"); err == nil {
		t.Error("encoded a string")
	}
	if err := newCodec().Unmarshal(split([]byte("x"), 10), new(int)); err == nil {
		t.Error("decoded into a number")
	}
	if newCodec().Name() != "proto" {
		t.Error("the name is part of every request")
	}
}

// Whatever comes in, our decoder says what protobuf's says.
func FuzzCodec(f *testing.F) {
	for _, m := range bulkMessages(10) {
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, uint8(0))
		f.Add(slices.Concat(wire, wire), uint8(1)) // every field twice: the last one counts, messages are merged
		f.Add(wire[:len(wire)-1], uint8(2))
	}
	f.Fuzz(func(t *testing.T, wire []byte, which uint8) {
		kinds := bulkMessages(0)
		kind := kinds[int(which)%len(kinds)].ProtoReflect()
		ours, theirs := kind.New().Interface(), kind.New().Interface()
		errOurs, errTheirs := codec{plain: plainCodec()}.Unmarshal(split(wire, 100), ours), plainCodec().Unmarshal(split(wire, 100), theirs)
		if (errOurs == nil) != (errTheirs == nil) {
			t.Fatalf("ours: %v, protobuf: %v", errOurs, errTheirs)
		}
		if errOurs == nil && !proto.Equal(ours, theirs) {
			t.Fatalf("ours %v, protobuf %v", ours, theirs)
		}
	})
}

// BenchmarkCodec is one message through both ends, in the pieces that the transport delivers.
func BenchmarkCodec(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		for name, c := range map[string]encoding.CodecV2{"by_reference": newCodec(), "plain": plainCodec()} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				m, got := bulkMessages(size)[0], &nodev1.ReplicateRequest{}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					out, err := c.Marshal(m)
					if err != nil {
						b.Fatal(err)
					}
					var in mem.BufferSlice
					for _, part := range out {
						in = append(in, split(part.ReadOnlyData(), 16<<10)...)
					}
					if err := c.Unmarshal(in, got); err != nil {
						b.Fatal(err)
					}
					out.Free()
				}
			})
		}
	}
}

// BenchmarkStream ships frames over mTLS on loopback, both ends in this process, with our codec and with gRPC's at the sender;
// the receiver always has ours.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 256 << 10, 1 << 20} {
		for name, option := range map[string][]grpc.CallOption{"by_reference": nil, "plain": {grpc.ForceCodecV2(plainCodec())}} {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) { benchmarkStream(b, size, option) })
		}
	}
}

func benchmarkStream(b *testing.B, size int, options []grpc.CallOption) {
	ca := newCA(b, "demo")
	server := start(b, ServerOptions{Source: source(b, ca, node("node-1"))}, &services{
		replicate: func(s grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
			for n := uint64(0); ; n++ {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				if m.GetWhole() {
					return s.Send(&nodev1.ReplicateResponse{DurableSeq: n + 1})
				}
			}
		},
	})
	p := pool(b, PoolOptions{Source: source(b, ca, node("node-2"))})
	client, err := p.Replication(context.Background(), server.addr, "node-1")
	if err != nil {
		b.Fatal(err)
	}
	stream, err := client.Replicate(context.Background(), options...)
	if err != nil {
		b.Fatal(err)
	}
	frames := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := stream.Send(&nodev1.ReplicateRequest{Frames: frames, CommitSeq: uint64(n)}); err != nil {
			b.Fatal(err)
		}
		n++
	}
	if err := stream.Send(&nodev1.ReplicateRequest{Whole: true}); err != nil {
		b.Fatal(err)
	}
	if ack, err := stream.Recv(); err != nil || ack.GetDurableSeq() != uint64(n+1) {
		b.Fatalf("%v, %v", ack, err)
	}
}
