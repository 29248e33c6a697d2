package cluster

import (
	"bytes"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
)

// KeyOverlap is how long the key before the newest goes on to count: a ballot that was signed with it may be on its way, and a node
// that is started again with its old files must not be mute. After it a key that was lost with its files is worth nothing.
const KeyOverlap = 10 * time.Minute

// WithKey is the record with key, a public key in PKIX DER, as the node's newest one; the one before it counts for KeyOverlap more.
// false: it is the newest already. The caller has proof that the node has the key.
func (n Node) WithKey(key []byte, now time.Time) (Node, bool) {
	if len(n.Keys) > 0 && bytes.Equal(n.Keys[len(n.Keys)-1], key) || !guard.On(guard.RenewedKey) {
		return n, false
	}
	before := n.Keys[max(0, len(n.Keys)-1):]
	n.Keys = append(slices.Clone(before), key)
	n.KeyChanged = now.UTC()
	return n, true
}

// WithoutOldKey is the record without the key before the newest, once its time is over; false: nothing to drop.
func (n Node) WithoutOldKey(now time.Time) (Node, bool) {
	if len(n.Keys) < 2 || now.Before(n.KeyChanged.Add(KeyOverlap)) {
		return n, false
	}
	n.Keys = slices.Clone(n.Keys[len(n.Keys)-1:])
	return n, true
}
