package themis

import (
	"fmt"
	"strconv"
	"time"
)

// HLC is a hybrid logical clock timestamp: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16
// (Kulkarni et al., "Logical Physical Clocks", 2014). A document's version is the HLC of its last write.
type HLC uint64

const hlcCounterBits = 16

// HLCAt is the first timestamp of that millisecond.
func HLCAt(t time.Time) HLC { return HLC(uint64(t.UnixMilli()) << hlcCounterBits) } //nolint:gosec // times before 1970 don't occur

// Time is the wall-clock part.
func (h HLC) Time() time.Time { return time.UnixMilli(int64(h >> hlcCounterBits)).UTC() } //nolint:gosec // 48 bits

// After is the timestamp for something that happens at wall time now and knows of h: the later of now and h + 1.
// It never runs backwards, whatever the wall clock does; a counter that overflows moves the millisecond on.
func (h HLC) After(now time.Time) HLC { return max(h+1, HLCAt(now)) }

// Skew is how far h lies ahead of now; negative when it lies behind.
func (h HLC) Skew(now time.Time) time.Duration { return h.Time().Sub(now) }

// String is the form of versions and hlc fields: sixteen hexadecimal digits, so that text order is time order.
func (h HLC) String() string { return fmt.Sprintf("%016x", uint64(h)) }

// ParseHLC reads what String wrote.
func ParseHLC(s string) (HLC, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, Errorf(InvalidArgument, "version %q: want the 16 hexadecimal digits that an answer gave", s)
	}
	return HLC(n), nil
}

// MarshalText makes an HLC a string in JSON.
func (h HLC) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *HLC) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHLC(string(b))
	return err
}
