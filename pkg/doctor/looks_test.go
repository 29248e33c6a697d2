package doctor

import (
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// TestValidatorLooksAgain plays what a reader of a growing log may see.
func TestValidatorLooksAgain(t *testing.T) {
	see := func(last int, faults ...wal.Finding) look {
		k := look{faults: faults, confirmed: faults}
		k.in.Last.Seq = themis.Seq(last)
		return k
	}
	lost := look{err: fs.ErrNotExist}
	torn := func(offset int64) wal.Finding {
		return wal.Finding{Fault: wal.FaultTornTail, File: "f", Offset: offset}
	}
	flipped := wal.Finding{Fault: wal.FaultFlipped, File: "f", Offset: 7}
	for _, c := range []struct {
		name    string
		looks   []look
		want    LogVerdict
		codes   []health.Code
		growing bool
		took    int
	}{
		{"clean at once", []look{see(5)}, LogSound, nil, false, 1},
		{"a tail that was being written", []look{see(5, torn(100)), see(9)}, LogSound, nil, true, 2},
		{"a tail that moves on and on", []look{see(1, torn(1)), see(2, torn(2)), see(3, torn(3)), see(4, torn(4)), see(5, torn(5))}, LogSound, nil, true, 5},
		{"a tail that stays", []look{see(5, torn(100)), see(5, torn(100))}, LogTornTail, []health.Code{"TORN_TAIL"}, false, 2},
		{"damage under a moving tail", []look{see(1, flipped, torn(1)), see(2, flipped, torn(2)), see(3, flipped)}, LogDamaged, []health.Code{"FLIPPED"}, true, 3},
		{"damage that is new in the second look is looked at again", []look{see(1, torn(1)), see(1, flipped), see(1, flipped)}, LogDamaged, []health.Code{"FLIPPED"}, false, 3},
		{"a segment that was removed under the reader", []look{lost, see(5)}, LogSound, nil, false, 2},
		{"files that can't be read", []look{lost, lost}, LogInconclusive, nil, false, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			v := &validator{log: Log{Dir: "d"}, o: ValidateOptions{Wait: time.Nanosecond}, look: func(Log) look {
				n++
				return c.looks[n-1]
			}}
			r, ok, err := v.run(t.Context())
			var codes []health.Code
			for _, f := range r.Findings {
				codes = append(codes, f.Code)
			}
			if err != nil || !ok || r.Verdict != c.want || !slices.Equal(codes, c.codes) || r.Growing != c.growing || n != c.took {
				t.Errorf("%s %v, growing %v after %d looks, %v", r.Verdict, codes, r.Growing, n, err)
			}
		})
	}
}
