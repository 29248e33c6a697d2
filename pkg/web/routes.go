package web

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/themisdb/themis/pkg/themis"
)

const documentsPath = "/api/v1/collections/{collection}/documents"

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// routes is the whole API.
func (s *server) routes() http.Handler {
	m := chi.NewRouter()
	m.Use(s.guarded, s.access)
	m.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, themis.Errorf(themis.NotFound, "no such path: %.200s", r.URL.Path).Do("GET / lists the paths"))
	})
	m.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		can := slices.DeleteFunc(slices.Clone(methods), func(method string) bool {
			return !m.Match(chi.NewRouteContext(), method, r.URL.RawPath)
		})
		w.Header().Set("Allow", strings.Join(can, ", "))
		s.failWith(w, themis.Errorf(themis.InvalidArgument, "%s is not for this path; it takes %s", r.Method, strings.Join(can, ", ")).Do("use %s", strings.Join(can, ", ")), http.StatusMethodNotAllowed)
	})
	read := func(path string, h http.HandlerFunc) {
		m.Get(path, h)
		m.Head(path, h)
	}
	m.Put(documentsPath+"/*", s.put)
	m.Delete(documentsPath+"/*", s.remove)
	read(documentsPath+"/*", s.get)
	m.Post(documentsPath, s.load)
	m.Get(documentsPath, s.list)
	read("/cluster/status", s.report)
	read("/cluster/health", s.report)
	read("/healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok\n") })
	read("/readyz", s.ready)
	if s.Metrics != nil {
		m.Method(http.MethodGet, "/metrics", s.Metrics)
		m.Method(http.MethodHead, "/metrics", s.Metrics)
	}
	read("/", s.welcome)
	return escaped(m)
}

// escaped makes routing see paths as they were sent: a %2F in a key is not a slash.
func escaped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawPath = r.URL.EscapedPath() // the request is this server's own
		next.ServeHTTP(w, r)
	})
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, http.StatusOK, []byte(text))
}

// report answers 200 whatever the status is: the request was answered, and its status stands in the answer.
func (s *server) report(w http.ResponseWriter, r *http.Request) {
	report, err := s.Source.Report(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.writeJSON(w, report)
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.Source.Ready(); err != nil {
		s.failWith(w, err, http.StatusServiceUnavailable)
		return
	}
	writeText(w, "ok\n")
}

func (s *server) welcome(w http.ResponseWriter, _ *http.Request) {
	name := s.Cluster()
	if name == "" {
		name = "(none yet)"
	}
	writeText(w, fmt.Sprintf(`ThemisDB node, cluster %s

PUT    /api/v1/collections/{collection}/documents/{key}   write a document (JSON)
GET    /api/v1/collections/{collection}/documents/{key}   read a document
DELETE /api/v1/collections/{collection}/documents/{key}   delete a document
POST   /api/v1/collections/{collection}/documents         write many (NDJSON)
GET    /api/v1/collections/{collection}/documents         list (NDJSON)
GET    /cluster/status, /cluster/health                   the state of the cluster (JSON)
GET    /healthz, /readyz                                  alive, serving
GET    /metrics                                           figures for Prometheus
`, name))
}
