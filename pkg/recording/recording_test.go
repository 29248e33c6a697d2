package recording

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func after(d time.Duration) themis.HLC { return themis.HLCAt(noon.Add(d)) }

// frameAt looks like a second of a cluster: much that stays, a little that changes.
func frameAt(t themis.HLC) *nodev1.StateFrame {
	rng := rand.New(rand.NewPCG(uint64(t), 1)) //nolint:gosec // repeatable
	var b strings.Builder
	fmt.Fprintf(&b, `{"cluster":"c","status":"HEALTHY","time":%q,"nodes":[`, t.Time().Format(time.RFC3339Nano))
	for i := range 20 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"node-%d","state":"UP","last_heartbeat_ms":%d,"address":"10.0.0.%d:8766"}`, i, rng.IntN(1000), i)
	}
	b.WriteString("]}")
	return &nodev1.StateFrame{Hlc: t.String(), Revision: uint64(t >> 20), ReportJson: []byte(b.String()), ObservedAtMs: map[string]uint64{"node-1": uint64(t >> 16)}}
}

func write(t *testing.T, dir string, o Options, times ...themis.HLC) {
	t.Helper()
	r, err := OpenRing(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range times {
		if err := r.Append(frameAt(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func seconds(from, to int) (out []themis.HLC) {
	for i := from; i < to; i++ {
		out = append(out, after(time.Duration(i)*time.Second))
	}
	return out
}

// watched are the times of all frames behind from, each compared with what was written; and the errors.
func watched(t *testing.T, dir string, from themis.HLC) (out []themis.HLC, errs []error) {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range r.Watch(t.Context(), from) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if want := string(frameAt(f.HLC).GetReportJson()); string(f.ReportJSON) != want {
			t.Fatalf("%s: %s\nwas written as %s", f.HLC, f.ReportJSON, want)
		}
		out = append(out, f.HLC)
	}
	return out, errs
}

func TestWhatWasRecordedIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "recording")
	small := Options{SegmentBytes: 2000}
	write(t, dir, small, seconds(0, 50)...)
	write(t, dir, small, seconds(60, 100)...) // the node was away for ten seconds
	got, errs := watched(t, dir, 0)
	if want := append(seconds(0, 50), seconds(60, 100)...); !slices.Equal(got, want) || len(errs) > 0 {
		t.Errorf("read %d frames of %d, %v", len(got), len(want), errs)
	}
	if got, _ := watched(t, dir, after(70*time.Second)); !slices.Equal(got, seconds(71, 100)) {
		t.Errorf("behind 12:01:10: %d frames from %v on", len(got), got[:1])
	}
	if list, err := segments(dir); err != nil || len(list) < 5 {
		t.Errorf("%d segments, %v: the test is about several", len(list), err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ at, want time.Duration }{
		{0, 0}, {30*time.Second + 500*time.Millisecond, 30 * time.Second}, {49 * time.Second, 49 * time.Second},
		{55 * time.Second, 49 * time.Second}, {60 * time.Second, 60 * time.Second}, {time.Hour, 99 * time.Second},
	} {
		f, err := r.At(t.Context(), after(c.at))
		if err != nil || f.HLC != after(c.want) {
			t.Errorf("at %s: the frame of %s, %v; want that of %s", c.at, f.HLC.Time().Sub(noon), err, c.want)
		}
	}
	if _, err := r.At(t.Context(), after(-time.Second)); themis.CodeOf(err) != themis.NotFound || !strings.Contains(err.Error(), "begins at 2026-03-01T12:00:00") {
		t.Errorf("before the first: %v", err)
	}
	if _, err := Open(t.TempDir()); themis.CodeOf(err) != themis.NotFound {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestASecondCostsLittle(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, Options{}, seconds(0, 200)...)
	list, err := segments(dir)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	raw := 200 * int64(proto.Size(frameAt(after(0))))
	if list[0].bytes*4 > raw {
		t.Errorf("%d bytes of %d: seconds that look alike should share what they have in common", list[0].bytes, raw)
	}
}

func TestTheRingKeepsWithinItsBytes(t *testing.T) {
	dir := t.TempDir()
	o := Options{MaxBytes: 20_000, SegmentBytes: 4000}
	r, err := OpenRing(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range seconds(0, 500) {
		if err := r.Append(frameAt(at)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 50 { // the node starts anew
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if r, err = OpenRing(dir, o); err != nil {
				t.Fatal(err)
			}
		}
		list, err := segments(dir)
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, s := range list {
			sum += s.bytes
		}
		if sum > int64(o.MaxBytes) {
			t.Fatalf("%d bytes after %d frames", sum, i+1)
		}
	}
	got, errs := watched(t, dir, 0)
	if len(errs) > 0 || len(got) < 20 || !slices.Equal(got, seconds(500-len(got), 500)) {
		t.Errorf("%d frames are left, %v: want the newest, without a gap", len(got), errs)
	}
}

func TestAClockThatWasSetBack(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, Options{}, append(seconds(0, 20), seconds(10, 15)...)...)
	got, errs := watched(t, dir, 0)
	if want := append(seconds(0, 20), seconds(10, 15)...); !slices.Equal(got, want) || len(errs) > 0 {
		t.Errorf("%d frames, %v", len(got), errs)
	}
	if list, _ := segments(dir); len(list) != 2 {
		t.Errorf("%d segments, want one before and one behind the step", len(list))
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ at, want int }{{5, 5}, {12, 12}, {30, 14}} { // what was written last counts
		if f, err := r.At(t.Context(), after(time.Duration(c.at)*time.Second)); err != nil || f.HLC != after(time.Duration(c.want)*time.Second) {
			t.Errorf("at %d s: that of %s, %v", c.at, f.HLC.Time().Sub(noon), err)
		}
	}
}

// TestNoByteIsBelieved changes and cuts a segment at every byte: what is read then is what was written, up to there, and the
// segment behind it is read whole.
func TestNoByteIsBelieved(t *testing.T) {
	from := t.TempDir()
	write(t, from, Options{}, seconds(0, 3)...)
	write(t, from, Options{}, seconds(3, 5)...)
	list, err := segments(from)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	whole, err := os.ReadFile(list[0].path)
	if err != nil {
		t.Fatal(err)
	}
	records, err := split(whole)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{0}
	for _, r := range records {
		ends = append(ends, ends[len(ends)-1]+headBytes+len(r.body))
	}
	for i := range whole {
		before := 0 // records that end before byte i
		for before+1 < len(ends) && ends[before+1] <= i {
			before++
		}
		flipped := slices.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		for name, b := range map[string][]byte{"cut": whole[:i], "flipped": flipped} {
			if err := os.WriteFile(list[0].path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			got, errs := watched(t, from, 0)
			if name == "flipped" && slices.Equal(got, seconds(0, 5)) && len(errs) == 0 {
				continue // a bit of zstd's that says nothing: what is read is what was written
			}
			want := append(seconds(0, before), seconds(3, 5)...)
			if !slices.Equal(got, want) {
				t.Fatalf("%s at byte %d: %d frames, want %d", name, i, len(got), len(want))
			}
			if clean := name == "cut" && ends[before] == i; clean != (len(errs) == 0) {
				t.Fatalf("%s at byte %d: errors %v", name, i, errs)
			}
			for _, err := range errs {
				if !errors.Is(err, themis.ErrMalformed) {
					t.Fatalf("%s at byte %d: %v", name, i, err)
				}
			}
			r, err := Open(from)
			if err != nil {
				t.Fatal(err)
			}
			f, err := r.At(t.Context(), after(2*time.Second))
			if err != nil && themis.CodeOf(err) != themis.NotFound || err == nil && (f.HLC > after(2*time.Second) || string(f.ReportJSON) != string(frameAt(f.HLC).GetReportJson())) {
				t.Fatalf("%s at byte %d: at 12:00:02 %s, %v", name, i, f.HLC, err)
			}
		}
	}
}

func TestARecordingIsReadWhileItIsWritten(t *testing.T) {
	dir := t.TempDir()
	o := Options{MaxBytes: 16_000, SegmentBytes: 3000}
	write(t, dir, o, after(0))
	done := make(chan error, 1)
	go func() {
		r, err := OpenRing(dir, o)
		for _, at := range seconds(1, 400) {
			if err == nil {
				err = r.Append(frameAt(at))
			}
		}
		done <- errors.Join(err, r.Close())
	}()
	for n := 0; ; n++ {
		select {
		case err := <-done:
			if err != nil || n == 0 {
				t.Errorf("after %d readings: %v", n, err)
			}
			return
		default:
		}
		got, errs := watched(t, dir, 0)
		for i := 1; i < len(got); i++ {
			if got[i] <= got[i-1] {
				t.Fatalf("%s comes behind %s", got[i], got[i-1])
			}
		}
		if len(errs) > 1 { // the record that is being written
			t.Fatal(errs)
		}
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := r.At(t.Context(), after(time.Hour)); err != nil || len(got) > 0 && f.HLC < got[len(got)-1] {
			t.Fatalf("the last is %s, %v", f.HLC, err)
		}
	}
}

func TestTheEventsOfAFrame(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRing(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := frameAt(after(0))
	m.EventsJson = [][]byte{[]byte(`{"id":"e1","hlc":"` + after(0).String() + `","action":"elect"}`)}
	if err := errors.Join(r.Append(m), r.Close()); err != nil {
		t.Fatal(err)
	}
	past, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err := past.At(t.Context(), after(0))
	if err != nil || len(f.Events) != 1 || f.Events[0].ID != "e1" || f.Events[0].Action != "elect" || !f.Observed["node-1"].Equal(noon) {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestAFullDiskEndsTheSegment(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	dir := t.TempDir()
	r, err := OpenRing(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Append(frameAt(after(0))); err != nil {
		t.Fatal(err)
	}
	_ = r.file.Close()
	if r.file, err = os.OpenFile("/dev/full", os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(frameAt(after(time.Second))); err == nil {
		t.Fatal("written to a full disk")
	}
	if err := errors.Join(r.Append(frameAt(after(2*time.Second))), r.Close()); err != nil {
		t.Fatal(err)
	}
	if got, errs := watched(t, dir, 0); !slices.Equal(got, []themis.HLC{after(0), after(2 * time.Second)}) || len(errs) > 0 {
		t.Errorf("%v, %v", got, errs)
	}
}

// FuzzSegment: no bytes make a reader fall over, and what it yields is in the form that was written.
func FuzzSegment(f *testing.F) {
	enc := &encoder{}
	var b []byte
	for _, at := range seconds(0, 3) {
		var err error
		if b, err = enc.record(b, frameAt(at)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add([]byte{1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for m, err := range frames(b, func(themis.HLC) bool { return true }) {
			if err != nil {
				continue
			}
			n++
			if _, err := themis.ParseHLC(m.GetHlc()); err != nil {
				t.Fatal(err)
			}
		}
		if list, _ := split(b); n > len(list) {
			t.Fatalf("%d frames of %d records", n, len(list))
		}
		if m := last(b, ^themis.HLC(0)); (m != nil) != (n > 0) {
			t.Fatalf("%d frames, the last is %v", n, m)
		}
	})
}
