package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
)

// bulkMin is the size from which handing a field on by reference is worth more than it costs.
const bulkMin = 32 << 10

// bulk names the messages whose weight is one bytes field, by that field's number. Only these take the short way.
var bulk = map[protoreflect.FullName]protowire.Number{
	(&nodev1.ReplicateRequest{}).ProtoReflect().Descriptor().FullName(): 2, // frames
	(&nodev1.InstallRequest{}).ProtoReflect().Descriptor().FullName():   4, // data
	(&nodev1.ReadResponse{}).ProtoReflect().Descriptor().FullName():     1, // value
	(&sharding.MigrateChunk{}).ProtoReflect().Descriptor().FullName():   1, // data
	(&sharding.ReplicateChunk{}).ProtoReflect().Descriptor().FullName(): 1, // data
}

// codec is protobuf, byte for byte what every other implementation reads and writes, but the bulk field of the messages above
// is handed to the transport by reference and taken from it with one copy. So what is sent must not be changed after Send,
// and what was received belongs to the receiver alone.
type codec struct {
	plain encoding.CodecV2
	min   int // from which size on; bulkMin
}

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name), bulkMin} }

// Name is that of protobuf: the bytes are the same.
func (codec) Name() string { return protocodec.Name }

// Marshal encodes v.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	msg, field := bulkField(v)
	if field == nil {
		return c.plain.Marshal(v)
	}
	data := msg.Get(field).Bytes()
	if len(data) < c.min {
		return c.plain.Marshal(v)
	}
	rest := msg.New() // the message itself may be on its way to others at this moment: it is only read
	msg.Range(func(fd protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if fd.Number() != field.Number() {
			rest.Set(fd, value)
		}
		return true
	})
	rest.SetUnknown(msg.GetUnknown())
	head, err := proto.Marshal(rest.Interface())
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", msg.Descriptor().FullName(), err)
	}
	head = protowire.AppendTag(head, field.Number(), protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(data)))
	return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(data)}, nil
}

// Unmarshal decodes data into v.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	msg, field := bulkField(v)
	if field == nil || data.Len() < c.min {
		return c.plain.Unmarshal(data, v)
	}
	all := data.Materialize() // the one copy; it is kept by the field, so it is not from a pool
	rest, value, found := cut(all, field.Number())
	if !found {
		return c.plain.Unmarshal(data, v)
	}
	if err := proto.Unmarshal(rest, msg.Interface()); err != nil {
		return fmt.Errorf("decode %s: %w", msg.Descriptor().FullName(), err)
	}
	msg.Set(field, protoreflect.ValueOfBytes(value))
	return nil
}

// cut takes one bytes field out of an encoded message; of several the last one counts, as in protobuf. In bytes that are no
// message it finds nothing: the plain codec then says what is wrong.
func cut(b []byte, number protowire.Number) (rest, value []byte, found bool) {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return nil, nil, false
		}
		size := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		if size < 0 {
			return nil, nil, false
		}
		whole := b[at : at+n+size]
		at += len(whole)
		if num != number || typ != protowire.BytesType {
			rest = append(rest, whole...)
			continue
		}
		value, _ = protowire.ConsumeBytes(whole[n:])
		found = true
	}
	return rest, value, found
}

// bulkField finds the field of v that is handed on by reference; nil: there is none.
func bulkField(v any) (protoreflect.Message, protoreflect.FieldDescriptor) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, nil
	}
	msg := m.ProtoReflect()
	number, ok := bulk[msg.Descriptor().FullName()]
	if !ok || !msg.IsValid() {
		return nil, nil
	}
	return msg, msg.Descriptor().Fields().ByNumber(number)
}
