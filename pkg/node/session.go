package node

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// session is how far a client has seen each shard. Its token is opaque to clients: in base64
//
//	| version u8 | expires u64, Unix s | region length u8 | region | count u8 | count × ( shard length u8 | shard | seq u64 ) | 16 bytes of an HMAC-SHA-256 under the cluster's key |
type session struct {
	expires time.Time
	region  string // of the node that gave it
	seen    []seen // the one that was seen last at the end
}

type seen struct {
	shard themis.ShardID
	seq   themis.Seq
}

const (
	sessionVersion   = 1
	sessionLife      = 24 * time.Hour
	mostSessionParts = 128 // shards in a token; those seen longest ago are forgotten
	sessionMACBytes  = 16
)

// saw adds what was just seen of a shard.
func (s *session) saw(shard themis.ShardID, seq themis.Seq) {
	seq = max(seq, s.seq(shard))
	s.seen = slices.DeleteFunc(s.seen, func(x seen) bool { return x.shard == shard })
	s.seen = append(s.seen, seen{shard, seq})
	s.seen = s.seen[max(0, len(s.seen)-mostSessionParts):]
}

// seq is how far the client has seen the shard; 0: not at all.
func (s session) seq(shard themis.ShardID) themis.Seq {
	for _, x := range s.seen {
		if x.shard == shard {
			return x.seq
		}
	}
	return 0
}

// token is the session as a client takes it along, from now on.
func (s session) token(v cluster.View, region string, now time.Time) string {
	b := binary.BigEndian.AppendUint64([]byte{sessionVersion}, uint64(now.Add(sessionLife).Unix())) //nolint:gosec // after 1970
	b = appendShort(b, region)
	b = append(b, byte(len(s.seen)))
	for _, x := range s.seen {
		b = binary.BigEndian.AppendUint64(appendShort(b, string(x.shard)), uint64(x.seq))
	}
	return base64.RawURLEncoding.EncodeToString(append(b, sessionMAC(v, b)...))
}

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func sessionMAC(v cluster.View, b []byte) []byte {
	h := hmac.New(sha256.New, v.Meta.SessionKey)
	h.Write(b)
	return h.Sum(nil)[:sessionMACBytes]
}

// openSession reads a client's token; an empty one is a session that has seen nothing. One that this cluster did not give, or that has ended, is
// INVALID_ARGUMENT: without it the client would not see what it asks to see.
func openSession(v cluster.View, token string, now time.Time) (s session, err error) {
	if token == "" {
		return s, nil
	}
	bad := themis.Errorf(themis.InvalidArgument, "session_token: not one that this cluster gave").Do("leave it out")
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) <= sessionMACBytes {
		return s, bad
	}
	body := b[:len(b)-sessionMACBytes]
	if !hmac.Equal(sessionMAC(v, body), b[len(body):]) || body[0] != sessionVersion {
		return s, bad
	}
	r := sessionReader{b: body[1:]}
	s.expires = time.Unix(int64(r.number()), 0) //nolint:gosec // signed by this cluster
	s.region = r.short()
	for range int(r.octet()) {
		s.seen = append(s.seen, seen{themis.ShardID(r.short()), themis.Seq(r.number())})
	}
	switch {
	case r.cut || len(r.b) > 0:
		return session{}, bad
	case now.After(s.expires):
		return session{}, themis.Errorf(themis.InvalidArgument, "session_token: ended %s", s.expires.UTC().Format(time.RFC3339)).Do("leave it out")
	}
	return s, nil
}

// sessionReader takes pieces off the front; cut says that there was less than was asked for.
type sessionReader struct {
	b   []byte
	cut bool
}

func (r *sessionReader) take(n int) []byte {
	if r.cut = r.cut || len(r.b) < n; r.cut {
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *sessionReader) octet() byte    { return r.take(1)[0] }
func (r *sessionReader) number() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *sessionReader) short() string  { return string(r.take(int(r.octet()))) }
