package tui

import (
	"context"
	"errors"
	"io"
	"iter"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// after is the model behind some messages.
func after(t *testing.T, m model, msgs ...tea.Msg) model {
	t.Helper()
	for _, msg := range msgs {
		next, _ := m.Update(msg)
		m = next.(model) //nolint:errcheck,forcetypeassert // it is always one
	}
	return m
}

func pressed(keys string) tea.KeyPressMsg {
	special := map[string]rune{
		"tab": tea.KeyTab, "esc": tea.KeyEscape, "enter": tea.KeyEnter, "backspace": tea.KeyBackspace, "down": tea.KeyDown, "up": tea.KeyUp,
		"pgdown": tea.KeyPgDown, "home": tea.KeyHome, "end": tea.KeyEnd, "left": tea.KeyLeft,
	}
	switch {
	case special[keys] != 0:
		return tea.KeyPressMsg{Code: special[keys]}
	case keys == "shift+tab":
		return tea.KeyPressMsg{Code: tea.KeyTab, Mod: tea.ModShift}
	case keys == "ctrl+c":
		return tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
	case keys == "space":
		return tea.KeyPressMsg{Code: tea.KeySpace, Text: " "}
	}
	r := []rune(keys)[0]
	return tea.KeyPressMsg{Code: r, Text: keys}
}

func press(t *testing.T, m model, keys ...string) model {
	t.Helper()
	for _, k := range keys {
		m = after(t, m, pressed(k))
	}
	return m
}

func shown(m model) string { return unstyled(m.View().Content) }

func liveModel(t *testing.T, w *world) model {
	t.Helper()
	return after(t, newModel(false, noon), tea.WindowSizeMsg{Width: 80, Height: 24}, news{frame: w.asFrame(trail()...), at: noon})
}

func TestKeys(t *testing.T) {
	m := liveModel(t, degradedWorld())
	for _, c := range []struct {
		keys string
		ok   func(l look) bool
	}{
		{"2", func(l look) bool { return l.screen == replicationScreen }},
		{"2 1", func(l look) bool { return l.screen == overviewScreen }},
		{"tab", func(l look) bool { return l.screen == replicationScreen }},
		{"tab tab", func(l look) bool { return l.screen == overviewScreen }},
		{"shift+tab", func(l look) bool { return l.screen == replicationScreen }},
		{"j", func(l look) bool { return l.top[overviewScreen] == 1 }},
		{"j down k", func(l look) bool { return l.top[overviewScreen] == 1 }},
		{"k", func(l look) bool { return l.top[overviewScreen] == 0 }},
		{"space b", func(l look) bool { return l.top[overviewScreen] == 0 }},
		{"space", func(l look) bool { return l.top[overviewScreen] == 19 }},
		{"G", func(l look) bool { return l.top[overviewScreen] > 19 }},
		{"G g", func(l look) bool { return l.top[overviewScreen] == 0 }},
		{"2 j j", func(l look) bool { return l.selected == 2 && l.top[replicationScreen] == 0 }},
		{"2 G", func(l look) bool { return l.selected == 8 }},
		{"2 G j k", func(l look) bool { return l.selected == 7 }},
		{"?", func(l look) bool { return l.help }},
		{"? j ? ", func(l look) bool { return !l.help && l.top[overviewScreen] == 0 }},
		{"? esc", func(l look) bool { return !l.help }},
		{"? 2", func(l look) bool { return !l.help && l.screen == replicationScreen }},
		{"/ q 2 enter", func(l look) bool { return l.filter == "q2" && !l.typing && l.screen == overviewScreen }},
		{"/ a b backspace", func(l look) bool { return l.filter == "a" && l.typing }},
		{"/ backspace a esc", func(l look) bool { return l.filter == "" && !l.typing }},
		{"/ a enter esc", func(l look) bool { return l.filter == "" }},
		{"x", func(l look) bool { return l == look{} }},
	} {
		if got := press(t, m, strings.Fields(c.keys)...).look; !c.ok(got) {
			t.Errorf("%q: %+v", c.keys, got)
		}
	}
}

func TestLeave(t *testing.T) {
	for _, keys := range []string{"q", "ctrl+c", "? q", "/ a ctrl+c"} {
		list := strings.Fields(keys)
		m := press(t, liveModel(t, healthyWorld()), list[:len(list)-1]...)
		_, cmd := m.Update(pressed(list[len(list)-1]))
		if cmd == nil {
			t.Fatalf("%q: no command", keys)
		}
		if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("%q does not leave", keys)
		}
	}
}

// TestSelectionStaysInSight walks through more copies than the window has lines.
func TestSelectionStaysInSight(t *testing.T) {
	w := healthyWorld()
	for i := 5; i <= 40; i++ {
		w.shard(themis.ShardID("shard-"+number(int64(i))), "node-1", "node-2", int64(i))
	}
	m := press(t, liveModel(t, w), "2")
	for range 79 {
		m = press(t, m, "j")
		if !strings.Contains(shown(m), "› ") {
			t.Fatalf("the selected row %d is out of sight:\n%s", m.look.selected, shown(m))
		}
	}
	if !strings.Contains(shown(m), "› shard-40  ○ node-2") {
		t.Errorf("not at the end:\n%s", shown(m))
	}
	m = after(t, m, news{frame: healthyWorld().asFrame(), at: noon}) // thirty-six shards less
	if m.look.selected != 7 || !strings.Contains(shown(m), "› shard-4") {
		t.Errorf("selected %d of 8:\n%s", m.look.selected, shown(m))
	}
	for range 8 {
		m = press(t, m, "k")
	}
	if !strings.Contains(shown(m), "› shard-1  ◆ node-1") {
		t.Errorf("not back at the top:\n%s", shown(m))
	}
}

// TestScrollingEnds holds that the end is the end, and that one key leads back from it.
func TestScrollingEnds(t *testing.T) {
	m := press(t, liveModel(t, degradedWorld()), "G")
	lines := strings.Split(strings.TrimRight(shown(m), "\n"), "\n")
	if foot := lines[len(lines)-1]; !strings.Contains(foot, "40–58 of 58") || strings.TrimSpace(lines[len(lines)-2]) == "" {
		t.Errorf("not the end:\n%s", shown(m))
	}
	at := m.look
	if at.top[overviewScreen] != 39 {
		t.Errorf("at %d", at.top[overviewScreen])
	}
	if more := press(t, m, "j", "space", "end"); more.look != at {
		t.Errorf("beyond the end: %+v", more.look)
	}
	if back := press(t, m, "space", "k"); back.look.top[overviewScreen] != at.top[overviewScreen]-1 {
		t.Errorf("one up from %+v: %+v", at, back.look)
	}
	beyond := look{}
	beyond.top[overviewScreen] = 1000 // a frame with less in it came since
	if got, want := bare(draw(m.scene, beyond, m.size)), bare(draw(m.scene, at, m.size)); got != want {
		t.Errorf("drawn beyond the end:\n%s", got)
	}
}

// TestLossAndReturn goes from nothing to a frame, to silence, to another frame.
func TestLossAndReturn(t *testing.T) {
	m := after(t, newModel(false, noon), tea.WindowSizeMsg{Width: 100, Height: 30})
	has := func(step string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(shown(m), w) {
				t.Errorf("%s: %q is missing in\n%s", step, w, shown(m))
			}
		}
	}
	has("at the start", "waiting for the first word", "not connected")
	m = after(t, m, news{err: errors.New("connection refused"), at: noon.Add(time.Second)}, tick(noon.Add(3*time.Second)))
	has("nobody answers", "no answer for 2 s, trying again: connection refused")
	m = after(t, m, news{frame: healthyWorld().asFrame(trail()[:2]...), at: noon.Add(4 * time.Second)})
	has("a frame", "● HEALTHY", "cluster_init")
	m = after(t, m, news{err: errors.New("broken pipe"), at: noon.Add(6 * time.Second)}, news{err: errors.New("no route"), at: noon.Add(9 * time.Second)}, tick(noon.Add(16*time.Second)))
	has("lost", "NOT LIVE  it was HEALTHY 12 s ago", "no answer for 10 s, trying again: no route", "shard-1")
	m = after(t, m, news{frame: degradedWorld().asFrame(trail()...), at: noon.Add(17 * time.Second)})
	has("back", "▲ DEGRADED")
	if strings.Contains(shown(m), "trying again") {
		t.Errorf("still lost:\n%s", shown(m))
	}
	if n := len(m.scene.Events); n != 4 {
		t.Errorf("%d events, want 4: those that came twice count once", n)
	}
	m = after(t, m, tick(noon.Add(30*time.Second)))
	has("silence without an error", "NOT LIVE  it was DEGRADED 13 s ago", "no frame has come since")
}

func TestEventsAreBounded(t *testing.T) {
	s := Scene{}
	for i := range 3 * eventsMax {
		e := cluster.Event{ID: number(int64(i)), HLC: themis.HLC(uint64(i)), Action: "elect"} //nolint:gosec // small
		s = s.with(health.Frame{Events: []cluster.Event{e}}, nil)
	}
	if len(s.Events) != eventsMax || s.Events[0].HLC != 3*eventsMax-1 {
		t.Errorf("%d events, the newest %d", len(s.Events), s.Events[0].HLC)
	}
}

// feed is a source that a test speaks through.
type feed struct {
	turns chan news
	from  themis.HLC
	ended chan struct{}
}

func newFeed() *feed { return &feed{turns: make(chan news), ended: make(chan struct{})} }

func (f *feed) Watch(ctx context.Context, from themis.HLC) iter.Seq2[health.Frame, error] {
	f.from = from
	return func(yield func(health.Frame, error) bool) {
		defer close(f.ended)
		for {
			select {
			case <-ctx.Done():
				for range 1000 {
					runtime.Gosched() // whoever doesn't wait for it is gone by now
				}
				return
			case n, ok := <-f.turns:
				if !ok || !yield(n.frame, n.err) {
					return
				}
			}
		}
	}
}

func (f *feed) At(context.Context, themis.HLC) (health.Frame, error) { return health.Frame{}, nil }

var _ health.Source = (*client.Client)(nil)

// window is a terminal that remembers what was written.
type window struct {
	mu   sync.Mutex
	text strings.Builder
	news chan struct{}
}

func (w *window) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
	return w.text.Write(b)
}

// shows waits until the text was written.
func (w *window) shows(t *testing.T, text string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		w.mu.Lock()
		got := w.text.String()
		w.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-w.news:
		case <-late:
			t.Fatalf("%q was never drawn in %q", text, got)
		}
	}
}

// running is Run in a terminal of the test.
func running(ctx context.Context, t *testing.T, src health.Source, env ...string) (out *window, keys io.Writer, result chan error) {
	t.Helper()
	in, keyboard := io.Pipe()
	t.Cleanup(func() { _ = keyboard.Close() })
	out, result = &window{news: make(chan struct{}, 1)}, make(chan error, 1)
	o := Options{In: in, Out: out, Env: append([]string{"TERM=xterm-256color"}, env...), more: []tea.ProgramOption{tea.WithWindowSize(100, 30)}}
	go func() { result <- Run(ctx, src, o) }()
	return out, keyboard, result
}

// ended holds that the source was left before Run returned.
func ended(t *testing.T, src *feed) {
	t.Helper()
	select {
	case <-src.ended:
	default:
		t.Error("the source is still read")
	}
}

func TestRun(t *testing.T) {
	src := newFeed()
	out, keys, result := running(t.Context(), t, src, "NO_COLOR=1")
	src.turns <- news{frame: healthyWorld().asFrame()}
	out.shows(t, "HEALTHY")
	src.turns <- news{err: errors.New("the connection broke")}
	out.shows(t, "the connection broke")
	src.turns <- news{frame: degradedWorld().asFrame()}
	out.shows(t, "DEGRADED")
	if _, err := io.WriteString(keys, "2"); err != nil {
		t.Fatal(err)
	}
	out.shows(t, "Lag of shard-1")
	if _, err := io.WriteString(keys, "q"); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("Run: %v", err)
	}
	ended(t, src)
	if src.from != everything {
		t.Errorf("watched from %v", src.from)
	}
	for _, colour := range []string{"\x1b[38;", "\x1b[31m", "\x1b[1;38", ";38;2;"} {
		if strings.Contains(out.text.String(), colour) {
			t.Errorf("colour %q in spite of NO_COLOR", colour)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	why := errors.New("stopped by a signal")
	ctx, stop := context.WithCancelCause(t.Context())
	src := newFeed()
	out, _, result := running(ctx, t, src)
	src.turns <- news{frame: healthyWorld().asFrame()}
	out.shows(t, "HEALTHY")
	stop(why)
	if err := <-result; !errors.Is(err, why) {
		t.Errorf("Run: %v", err)
	}
	ended(t, src)
}
