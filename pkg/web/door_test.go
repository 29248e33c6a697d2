package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// Clients that say nothing, or stop in the middle of a word, hold up nobody.
func TestSilentClientsHoldUpNobody(t *testing.T) {
	f := startFace(t, nil)
	for _, said := range []string{"", "", "", "G", "GET / HT", "\x16", "\x16\x03\x01\x02\x00"} {
		for range 20 {
			c := must(net.Dial("tcp", f.addr))(t)
			defer c.Close()
			must(c.Write([]byte(said)))(t)
		}
	}
	ask(t, plainClient(t), "GET", f.plain()+"/healthz", "").want(t, 200, "ok\n")
	ask(t, f.client(t, pki.Read), "GET", f.tls()+"/healthz", "").want(t, 200, "ok\n")
}

// ended reads until the other side closes, and says what came and when, after start.
func ended(t testing.TB, c net.Conn, start time.Time) (said string, after time.Duration) {
	t.Helper()
	b, err := io.ReadAll(c)
	if isTimeout(err) {
		t.Fatal(err)
	}
	return string(b), time.Since(start)
}

// inBubble serves a twin over pipes on virtual time; the test ends with Serve.
func inBubble(t *testing.T, test func(t *testing.T, p *pipes, w *twin)) {
	synctest.Test(t, func(t *testing.T) {
		p, w := newPipes(), newTwin(2)
		stop, done := serve(t, p, w.options())
		test(t, p, w)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestSlowClientsEnd(t *testing.T) {
	for what, c := range map[string]struct {
		say   string
		after time.Duration
		want  string // of the answer
	}{
		"silent":              {"", headerTimeout, ""},
		"a byte":              {"G", headerTimeout, "400 Bad Request"},
		"half a header":       {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ", headerTimeout, ""},
		"a PUT without body":  {"PUT " + docs + "/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12", 10 * time.Second, `"code":"DEADLINE"`},
		"a PUT in its time":   {"PUT " + docs + "/a?timeout_ms=60000 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12", time.Minute, `"code":"DEADLINE"`},
		"a load that stalls":  {"POST " + docs + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{\"_key\":\"a\"}\n{\"", stallTimeout, `{"written":1,"failed":1,"errors":[{"line":2,"key":"","code":"DEADLINE"`},
		"a GET with no body":  {"GET " + docs + "/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n", lingerTimeout, "NOT_FOUND"},
		"a PUT of nonsense":   {"PUT " + docs + "/a?x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n", lingerTimeout, "INVALID_ARGUMENT"},
		"nothing more to ask": {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", idleTimeout, "ok"},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pipes, w *twin) {
				start := time.Now()
				conn := p.dial(t)
				defer conn.Close()
				for i := range len(c.say) {
					must(conn.Write([]byte{c.say[i]}))(t)
				}
				said, after := ended(t, conn, start)
				if !strings.Contains(said, c.want) || c.want == "" && said != "" {
					t.Errorf("said %q", said)
				}
				if after < c.after || after > c.after+time.Second {
					t.Errorf("ended after %s, want %s", after, c.after)
				}
			})
		})
	}
}

// A byte now and then does not keep a header, or a connection without one, alive.
func TestSlowloris(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, _ *twin) {
		conn := p.dial(t)
		defer conn.Close()
		start := time.Now()
		go io.Copy(io.Discard, conn)
		for _, b := range []byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + strings.Repeat("a", 100)) {
			if _, err := conn.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(time.Second) // virtual
		}
		// The first byte, and then the header, have their time each.
		if after := time.Since(start); after > 2*headerTimeout+time.Second {
			t.Errorf("a header that took %s was waited for", after)
		}
	})
}

// An answer that nobody takes ends, and what it held is given back.
func TestAnswerThatNobodyTakes(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, w *twin) {
		w.plant(t, "people", "", "big", `"`+strings.Repeat("x", 4<<20)+`"`)
		for _, path := range []string{docs + "/big", docs, "/healthz"} {
			conn := p.dial(t)
			start := time.Now()
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
			if path != "/healthz" {
				must(bufio.NewReader(conn).ReadString('\n'))(t)
			}
			time.Sleep(stallTimeout + time.Second) // virtual; nothing is read
			said, after := ended(t, conn, start)
			if len(said) > 1<<20 || path == "/healthz" && said != "" || after > 2*stallTimeout {
				t.Errorf("%s: %d bytes more, after %s", path, len(said), after)
			}
			conn.Close()
		}
	})
}

// Large documents that are asked for and not taken are held to a bound; small ones are answered beside them, and what nobody takes is
// given back, also where a little of it is taken again and again.
func TestAnswersThatNobodyTakesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, w *twin) {
		w.plant(t, "people", "", "big", `"`+strings.Repeat("x", 16<<20-2)+`"`)
		w.plant(t, "people", "", "small", `1`)
		get := func(key string) (net.Conn, *bufio.Reader, string) {
			conn := p.dial(t)
			fmt.Fprintf(conn, "GET %s/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", docs, key)
			r := bufio.NewReaderSize(conn, 64)
			return conn, r, must(r.ReadString('\n'))(t)
		}
		start := time.Now()
		var readers sync.WaitGroup
		defer readers.Wait() // their connections are closed by then
		for i := range maxAnswers >> 24 {
			conn, r, line := get("big")
			defer conn.Close()
			if !strings.Contains(line, "200") {
				t.Fatalf("%d: %s", i, line)
			}
			readers.Go(func() {
				for piece := make([]byte, leastRate/2); ; { // steady, but too slow
					if _, err := io.ReadFull(r, piece); err != nil {
						return
					}
					time.Sleep(time.Second) // virtual
				}
			})
		}
		conn, _, line := get("big")
		defer conn.Close()
		if !strings.Contains(line, "503") {
			t.Errorf("one more: %s", line)
		}
		conn, _, line = get("small")
		defer conn.Close()
		if !strings.Contains(line, "200") {
			t.Errorf("a small one: %s", line)
		}
		time.Sleep(stallTimeout + (16<<20)*time.Second/leastRate) // virtual
		conn, _, line = get("big")
		defer conn.Close()
		if !strings.Contains(line, "200") {
			t.Errorf("%s later: %s", time.Since(start), line)
		}
	})
}

// A slow but steady reader gets it all, however long it takes.
func TestAnswerThatIsTakenSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, w *twin) {
		for i := range 20 {
			w.plant(t, "people", "", fmt.Sprint(i), `"`+strings.Repeat("x", 200_000)+`"`)
		}
		res := must(p.client(t).Get("http://localhost" + docs))(t)
		defer res.Body.Close()
		total, piece := 0, make([]byte, 16<<10)
		for {
			n, err := io.ReadFull(res.Body, piece)
			total += n
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // virtual
		}
		if total < 20*200_000 {
			t.Errorf("%d bytes came", total)
		}
	})
}

// A slow but steady load goes on beyond every deadline of a single request.
func TestLoadThatIsSentSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, _ *twin) {
		r, w := io.Pipe()
		go func() {
			for i := range 20 {
				fmt.Fprintf(w, "{\"_key\":\"%d\"}\n", i)
				time.Sleep(stallTimeout - time.Second) // virtual
			}
			w.Close()
		}()
		res := must(p.client(t).Post("http://localhost"+docs, "", r))(t)
		defer res.Body.Close()
		if b := must(io.ReadAll(res.Body))(t); !strings.Contains(string(b), `"written":20,"failed":0`) {
			t.Errorf("%s", b)
		}
	})
}

// The node may think for as long as the client allows it to.
func TestTimeoutBoundsTheNode(t *testing.T) {
	for _, c := range []struct {
		method, path string
		after        time.Duration
		code         themis.Code
	}{
		{"GET", docs + "/a", 10 * time.Second, themis.Deadline},
		{"GET", docs + "/a?timeout_ms=1", time.Millisecond, themis.Deadline},
		{"GET", docs + "/a?timeout_ms=600000", 10 * time.Minute, themis.Deadline},
		{"PUT", docs + "/a?timeout_ms=300000", 5 * time.Minute, themis.OutcomeUnknown},
		{"DELETE", docs + "/a", 10 * time.Second, themis.OutcomeUnknown},
		{"GET", docs, 10 * time.Second, themis.Deadline},
		{"GET", docs + "?timeout_ms=90000", 90 * time.Second, themis.Deadline},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pipes, w *twin) {
				w.before = untilDone
				start := time.Now()
				body := ""
				if c.method == "PUT" {
					body = "1"
				}
				ask(t, p.client(t), c.method, "http://localhost"+c.path, body).problem(t, c.code, "")
				if after := time.Since(start); after != c.after {
					t.Errorf("answered after %s, want %s", after, c.after)
				}
			})
		})
	}
}

func untilDone(ctx context.Context, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// No deadline for the client runs while the node works.
func TestSlowNode(t *testing.T) {
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", docs + "/a", "", "7"},
		{"PUT", docs + "/a", "8", `"seq":2`},
		{"POST", docs, `{"_key":"b"}`, `"written":1`},
		{"GET", docs, "", `"document":7`},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *pipes, w *twin) {
				w.plant(t, "people", "", "a", "7")
				w.before = func(ctx context.Context, _, _ string) error {
					select {
					case <-time.After(5 * time.Minute):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				got := ask(t, p.client(t), c.method, "http://localhost"+c.path+"?timeout_ms=600000", c.body)
				if got.status != 200 || !strings.Contains(got.body, c.want) {
					t.Errorf("status %d: %s", got.status, got.body)
				}
			})
		})
	}
}

// The same over HTTP/2, where a deadline that is left behind ends the stream at once.
func TestSlowNodeOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := must(pki.NewCA(pki.CAOptions{Cluster: "demo"}))(t)
		node := identity(t, ca, pki.Request{Node: "node-1", Datacenter: "dc1", Loopback: true})
		config := identity(t, ca, pki.Request{Client: "somebody", Capabilities: []string{pki.Read, pki.Write}}).ClientConfig("node-1", "")
		p, w := newPipes(), newTwin(1)
		o := w.options()
		o.TLS = node.OptionalServerConfig()
		stop, done := serve(t, p, o)
		for i := range 40 {
			w.plant(t, "people", "", fmt.Sprint(i), `"`+strings.Repeat("x", 100_000)+`"`)
		}
		c := p.client(t)
		c.Transport.(*http.Transport).TLSClientConfig = config
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		w.before = func(_ context.Context, what, _ string) error {
			if what != "row" {
				time.Sleep(2 * time.Minute) // virtual
			}
			return nil
		}
		got := ask(t, c, "GET", "https://localhost"+docs+"?timeout_ms=600000", "")
		if got.proto != "HTTP/2.0" {
			t.Errorf("spoke %s", got.proto)
		}
		sameRows(t, rowsOf(t, got), w.sorted("people"))
		// While as many writes as may be are under way nobody reads, and the client may be silent for longer than a body may.
		r, body := io.Pipe()
		go func() {
			for i := range maxWrites + 11 {
				if i == maxWrites+1 {
					time.Sleep(2*time.Minute + stallTimeout/2) // virtual
				}
				fmt.Fprintf(body, "{\"_key\":\"%d\"}\n", i)
			}
			body.Close()
		}()
		askBody(t, c, "POST", "https://localhost"+docs+"?timeout_ms=600000", r).want(t, 200, fmt.Sprintf(`{"written":%d,"failed":0,"errors":[]}`+"\n", maxWrites+11))
		c.CloseIdleConnections()
		stop()
		<-done
	})
}

// A client that hangs up ends its request.
func TestHangUpEndsTheRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, w *twin) {
		heard := make(chan error, 1)
		w.before = func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			heard <- context.Cause(ctx)
			return ctx.Err()
		}
		conn := p.dial(t)
		fmt.Fprintf(conn, "GET %s/a HTTP/1.1\r\nHost: localhost\r\n\r\n", docs)
		synctest.Wait()
		conn.Close()
		if err := <-heard; !errors.Is(err, context.Canceled) {
			t.Errorf("heard %v", err)
		}
	})
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	for what, c := range map[string]struct {
		takes time.Duration
		fine  bool
		until time.Duration // Serve returns
	}{
		"in time":   {shutdownGrace - time.Second, true, shutdownGrace},
		"too slow":  {time.Hour, false, shutdownGrace},
		"no wait":   {0, true, 0},
		"a stopper": {shutdownGrace + time.Minute, false, shutdownGrace},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, w := newPipes(), newTwin(1)
				w.plant(t, "people", "", "a", "7")
				stop, done := serve(t, p, w.options())
				w.before = func(ctx context.Context, _, _ string) error {
					select {
					case <-time.After(c.takes):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				silent, idle := p.dial(t), p.dial(t)
				defer silent.Close()
				defer idle.Close()
				fmt.Fprint(idle, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
				res := must(http.ReadResponse(bufio.NewReader(idle), nil))(t)
				res.Body.Close()
				answered := make(chan reply, 1)
				go func() {
					res, err := p.client(t).Get("http://localhost" + docs + "/a?timeout_ms=600000")
					if err != nil {
						answered <- reply{err: err}
						return
					}
					defer res.Body.Close()
					b, err := io.ReadAll(res.Body)
					answered <- reply{status: res.StatusCode, body: string(b), err: err}
				}()
				synctest.Wait()
				start := time.Now()
				stop()
				err := <-done
				after := time.Since(start)
				got := <-answered
				if !errors.Is(err, context.Canceled) || after > c.until+time.Second || (got.status == 200 && got.body == "7") != c.fine {
					t.Errorf("Serve: %v after %s, answer %+v", err, after, got)
				}
				if said, _ := ended(t, silent, start); said != "" {
					t.Errorf("the silent one was told %q", said)
				}
				select {
				case <-p.closed:
				default:
					t.Error("the listener is open")
				}
			})
		})
	}
}

// What waits for the node when the grace ends is told so, also where the server no longer listens to its connection.
func TestShutdownEndsRequests(t *testing.T) {
	for what, say := range map[string][]string{
		"a load that goes on":   {"POST " + docs + "?timeout_ms=600000 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"_key\":\"a\"}\n"},
		"two requests in a row": {"GET " + docs + "/a?timeout_ms=600000 HTTP/1.1\r\nHost: localhost\r\n\r\n", "G"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, w := newPipes(), newTwin(1)
				stop, done := serve(t, p, w.options())
				w.before = untilDone
				conn := p.dial(t)
				defer conn.Close()
				for _, s := range say {
					fmt.Fprint(conn, s)
					synctest.Wait()
				}
				synctest.Wait()
				start := time.Now()
				stop()
				<-done
				if after := time.Since(start); after > shutdownGrace+time.Second {
					t.Errorf("Serve took %s to end", after)
				}
			})
		})
	}
}

// One connection more than may be silent is closed at once; when the others have ended there is room again.
func TestTooManySilentConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, _ *twin) {
		var silent []net.Conn
		for range maxUnspoken {
			silent = append(silent, p.dial(t))
		}
		one := p.dial(t)
		if said, after := ended(t, one, time.Now()); said != "" || after != 0 {
			t.Errorf("one too many: %q after %s", said, after)
		}
		for _, c := range silent {
			if _, after := ended(t, c, time.Now()); after > headerTimeout {
				t.Errorf("silent for %s", after)
			}
		}
		ask(t, p.client(t), "GET", "http://localhost/healthz", "").want(t, 200, "ok\n")
	})
}

// flaky fails some times before it accepts, and breaks for good when told to.
type flaky struct {
	*pipes
	failures int
	broken   bool
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.broken {
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	if f.failures > 0 {
		f.failures--
		return nil, errors.New("too many open files")
	}
	return f.pipes.Accept()
}

func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &flaky{pipes: newPipes(), failures: 20}
		start := time.Now()
		stop, done := serve(t, p, newTwin(1).options())
		ask(t, p.client(t), "GET", "http://localhost/healthz", "").want(t, 200, "ok\n")
		if after := time.Since(start); after < 5*time.Second || after > 30*time.Second {
			t.Errorf("it was tried again for %s", after)
		}
		stop()
		<-done
	})
	synctest.Test(t, func(t *testing.T) {
		_, done := serve(t, &flaky{pipes: newPipes(), broken: true}, newTwin(1).options())
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve on a broken listener: %v", err)
		}
	})
}

// Too large a document is refused before any of it is sent.
func TestTooLargeIsNotAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, p *pipes, _ *twin) {
		conn := p.dial(t)
		defer conn.Close()
		fmt.Fprintf(conn, "PUT %s/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", docs, themis.MaxDocumentBytes+1)
		if said, after := ended(t, conn, time.Now()); !strings.HasPrefix(said, "HTTP/1.1 413 ") || after > time.Second {
			t.Errorf("after %s: %s", after, said)
		}
	})
}

func TestHugeHeader(t *testing.T) {
	f := startFace(t, nil)
	if got := ask(t, plainClient(t), "GET", f.plain()+"/healthz", "", "X-A: "+strings.Repeat("a", 2*maxHeaderBytes)); got.status != 431 {
		t.Errorf("status %d", got.status)
	}
}
