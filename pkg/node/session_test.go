package node

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func TestSessionTokens(t *testing.T) {
	v := cluster.View{Meta: cluster.Meta{SessionKey: []byte("0123456789abcdef0123456789abcdef")}}
	now := time.Unix(1_780_000_000, 0)
	var s session
	s.saw("shard-1", 7)
	s.saw("shard-2", 9)
	s.saw("shard-1", 5) // of a follower that is behind: what was seen stays seen
	token := s.token(v, "eu", now)
	got, err := openSession(v, token, now)
	if err != nil || got.seq("shard-1") != 7 || got.seq("shard-2") != 9 || got.seq("shard-3") != 0 || got.region != "eu" || !got.expires.Equal(now.Add(sessionLife)) {
		t.Fatalf("%+v, %v", got, err)
	}
	if none, err := openSession(v, "", now); err != nil || len(none.seen) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		changed := append([]byte{}, raw...)
		changed[i] ^= 4
		if s, err := openSession(v, base64.RawURLEncoding.EncodeToString(changed), now); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("with byte %d changed: %+v, %v", i, s, err)
		}
		if s, err := openSession(v, base64.RawURLEncoding.EncodeToString(raw[:i]), now); i > 0 && themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%d bytes of it: %+v, %v", i, s, err)
		}
	}
	other := cluster.View{Meta: cluster.Meta{SessionKey: []byte("another cluster's key")}}
	for name, c := range map[string]struct {
		v     cluster.View
		token string
		at    time.Time
		want  string
	}{
		"another cluster's": {other, token, now, "not one that this cluster gave"},
		"ended":             {v, token, now.Add(sessionLife + time.Second), "ended "},
		"no base64":         {v, "%%", now, "not one that this cluster gave"},
	} {
		if _, err := openSession(c.v, c.token, c.at); themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range 2 * mostSessionParts {
		s.saw(themis.ShardID(fmt.Sprint("shard-", i)), themis.Seq(i+1))
	}
	got, err = openSession(v, s.token(v, strings.Repeat("r", 300), now), now)
	if err != nil || len(got.seen) != mostSessionParts || got.seq("shard-255") != 256 || got.seq("shard-2") != 0 {
		t.Errorf("%d parts, %v", len(got.seen), err)
	}
}

func FuzzSessionToken(f *testing.F) {
	v := cluster.View{Meta: cluster.Meta{SessionKey: []byte("k")}}
	now := time.Unix(1_780_000_000, 0)
	var s session
	s.saw("shard-1", 7)
	f.Add(s.token(v, "eu", now))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil { // the MAC must not keep the fuzzer out
			text = base64.RawURLEncoding.EncodeToString(append(b, sessionMAC(v, b)...))
		}
		if s, err := openSession(v, text, now); err == nil && len(s.seen) > 255 {
			t.Fatalf("%+v", s)
		}
	})
}
