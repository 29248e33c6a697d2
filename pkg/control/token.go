package control

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// tokenKept is how long the record of an expired token tells who used it.
const tokenKept = 24 * time.Hour

func (m *Map) tokenKey(hash string) (string, error) {
	if b, err := hex.DecodeString(hash); err != nil || len(b) < 16 {
		return "", themis.Errorf(themis.InvalidArgument, "join token: its hash is not hexadecimal with at least 32 digits")
	}
	return m.keys.token(hash), nil
}

// CreateToken records a new one-time token by the hash of its secret (hexadecimal). Records of tokens that expired more than
// a day before now go at the same time.
func (m *Map) CreateToken(ctx context.Context, t cluster.JoinToken, now time.Time) error {
	key, err := m.tokenKey(t.Hash)
	if err != nil {
		return err
	}
	t.Format = cluster.Format
	b, err := cluster.Encode(t)
	if err != nil {
		return err
	}
	old, at, err := m.kv.List(ctx, Prefix(m.keys.of(underTokens)))
	if err != nil {
		return fmt.Errorf("create join token: %w", err)
	}
	txn := Txn{If: []Compare{{key, 0}}, Put: []Put{{Key: key, Value: b}}}
	for _, r := range old {
		was, err := cluster.Decode[cluster.JoinToken](r.Value)
		if err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		if r.Key != key && now.Sub(was.Expires) > tokenKept && len(txn.Delete) < MaxTxnOps/2 {
			txn.Delete = append(txn.Delete, r.Key)
		}
	}
	_, ok, err := m.commit(ctx, txn, key, at)
	if err == nil && !ok {
		err = themis.Errorf(themis.InvalidArgument, "a token with this hash exists")
	}
	if err != nil {
		return fmt.Errorf("create join token: %w", err)
	}
	return nil
}

// ConsumeToken uses a token up for usedBy, which must tell this use from every other (a storage id does). Of several at once
// only one succeeds. PERMISSION_DENIED when there is no such token, when it was used, or when it has expired at now.
func (m *Map) ConsumeToken(ctx context.Context, hash, usedBy string, now time.Time) error {
	key, err := m.tokenKey(hash)
	if err != nil {
		return err
	}
	denied := func(why string) error {
		return themis.Errorf(themis.PermissionDenied, "join token: %s", why).Do("themis-cli node join --help")
	}
	t, at, since, err := read(ctx, m, key, cluster.Decode[cluster.JoinToken])
	switch {
	case err != nil:
		return fmt.Errorf("join token: %w", err)
	case at.Revision == 0:
		return denied("not known here")
	case t.UsedBy != "":
		return denied("already used by " + t.UsedBy)
	case !now.Before(t.Expires):
		return denied("expired at " + t.Expires.UTC().Format(time.RFC3339))
	case usedBy == "":
		return themis.Errorf(themis.InvalidArgument, "join token: used by nobody")
	}
	t.UsedBy = usedBy
	b, err := cluster.Encode(t)
	if err != nil {
		return err
	}
	_, ok, err := m.commit(ctx, Txn{If: []Compare{{key, at.Revision}}, Put: []Put{{Key: key, Value: b}}}, key, since)
	switch {
	case err != nil:
		return fmt.Errorf("join token: %w", err)
	case !ok:
		return denied("used by another at the same time")
	}
	return nil
}
