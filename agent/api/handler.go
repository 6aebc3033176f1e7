package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// socketHandler answers the command line.
func (s *Server) socketHandler() http.Handler { return bounded(s.guard(s.questions(), s.local)) }

// questions are all that may be asked and ordered, by who has the role for it.
func (s *Server) questions() http.Handler {
	src := s.cfg.Source
	mux := http.NewServeMux()
	answer(mux, "/v1/status", src.Status, func(v *Status) { some(&v.Standbys); some(&v.Problems) })
	answer(mux, "/v1/members", src.Members, func(v *Members) { some(&v.Members) })
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, r *http.Request) {
		ask := src.Services
		if r.URL.Query().Has("browse") {
			ask = src.Browse
		}
		respond(w, r, ask, tidyServices)
	})
	answer(mux, "/v1/health", src.Health, func(v *Health) { some(&v.Nodes) })
	answer(mux, "/v1/history", src.History, func(v *History) { some(&v.Changes) })
	answer(mux, "/v1/rotation", src.Rotation, func(*Rotation) {})
	answer(mux, "/v1/tokens", src.Tokens, func(v *Tokens) { some(&v.Tokens) })
	mux.HandleFunc("GET /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		term, err := strconv.ParseUint(cmp.Or(r.URL.Query().Get("term"), "0"), 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, "a term is a number")
			return
		}
		respond(w, r, func(ctx context.Context) (Explanation, error) { return src.Explain(ctx, term) }, func(v *Explanation) { some(&v.Views) })
	})
	s.order(mux)
	s.access(mux)
	if s.cfg.Doctor != nil {
		answer(mux, "/v1/doctor", s.cfg.Doctor, func(v *Doctor) { some(&v.Findings) })
	}
	if s.cfg.Audit != nil {
		answer(mux, "/v1/audit", s.cfg.Audit, func(v *Audit) { some(&v.Records) })
	}
	mux.HandleFunc("GET /metrics", s.metrics)
	return mux
}

func tidyServices(v *Services) {
	some(&v.Problems)
	v.Services = append([]Service{}, v.Services...)
	for i := range v.Services {
		some(&v.Services[i].Addresses)
	}
}

// tcpHandler answers machines. It only reads, and says nothing that members of
// the LAN may not know.
func (s *Server) tcpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", probe(s.cfg.Source.Alive))
	mux.HandleFunc("GET /readyz", probe(s.cfg.Source.Ready))
	return bounded(s.checkHost(mux))
}

// bounded gives every request its time and refuses bodies where nothing reads one.
func bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		if r.ContentLength != 0 && r.Method != http.MethodPost {
			fail(w, http.StatusRequestEntityTooLarge, "this request takes no body")
			return
		}
		limit := askTimeout
		if r.Method == http.MethodPost {
			limit = orderTimeout
		}
		ctx, cancel := context.WithTimeout(r.Context(), limit)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// checkHost refuses names that are not ours: a web page on another name that
// resolves to this host's address must not read through a browser.
func (s *Server) checkHost(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !ownName(r.Host, s.cfg.Node) {
			fail(w, http.StatusForbidden, "this agent does not answer to that name: use its address")
			return
		}
		if o := r.Header.Get("Origin"); o != "" {
			if u, err := url.Parse(o); err != nil || u.Host != r.Host {
				fail(w, http.StatusForbidden, "pages of other sites may not ask this agent")
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

func ownName(host, node string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || node != "" && (name == node || name == node+".local")
}

// some makes an empty list of none: scripts want [], not null.
func some[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

// answer mounts one question; tidy puts the answer into its promised form. The
// lists in it stay the Source's: tidy changes none that others may read.
func answer[T any](mux *http.ServeMux, path string, ask func(context.Context) (T, error), tidy func(*T)) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { respond(w, r, ask, tidy) })
}

func respond[T any](w http.ResponseWriter, r *http.Request, ask func(context.Context) (T, error), tidy func(*T)) {
	v, err := ask(r.Context())
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	tidy(&v)
	write(w, v)
}

func write(w http.ResponseWriter, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // it is shown by no browser, and would be six times as long
	if err := enc.Encode(v); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b.Bytes())
}

func fail(w http.ResponseWriter, code int, why string) {
	b, _ := json.Marshal(Failure{Error: why})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

// probe answers in the way of kubelet and load balancers: 200 and ok, or 503 and
// why not.
func probe(ask func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := ask(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			w.Write([]byte(err.Error() + "\n"))
			return
		}
		w.Write([]byte("ok\n"))
	}
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	for _, err := range appendMetrics(&b, slices.Concat(s.cfg.Source.Metrics(), ProcessMetrics())) {
		s.cfg.Log.Error("a metric was left out", "err", err)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(b.Bytes())
}
