package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// TestOrder: root acts, nobody else does, and what is not understood does nothing.
func TestOrder(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	src := &fake{}
	start(t, Config{Socket: path, Source: src})
	c := NewClient(path)
	defer c.Close()

	s := &Server{cfg: Config{Source: src}}
	for name, tc := range map[string]struct {
		caller *Caller
		body   string
		code   int
		want   string
	}{
		"root":             {&Caller{UID: 0}, `{"verb":"pause","by":"ann"}`, 200, "pause"},
		"another user":     {&Caller{UID: 4711}, `{"verb":"pause"}`, 403, "sudo"},
		"nobody known":     {nil, `{"verb":"pause"}`, 403, "somebody unknown"},
		"an unknown field": {&Caller{UID: 0}, `{"verb":"pause","sure":true}`, 400, "not understood"},
		"too much":         {&Caller{UID: 0}, `{"why":"` + strings.Repeat("x", maxOrder) + `"}`, 400, "not understood"},
		"refused":          {&Caller{UID: 0}, `{"verb":"step-down","why":"refuse"}`, 409, "nobody is ready"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(tc.body))
			if tc.caller != nil {
				r = r.WithContext(contextWithCaller(r.Context(), *tc.caller))
			}
			w := httptest.NewRecorder()
			s.socketHandler().ServeHTTP(w, r)
			b, _ := io.ReadAll(w.Result().Body)
			if w.Code != tc.code || !strings.Contains(string(b), tc.want) {
				t.Errorf("%d %s", w.Code, b)
			}
		})
	}
	// The TCP listener knows no orders at all.
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(`{"verb":"pause"}`))
	r.Host = "localhost"
	s.tcpHandler().ServeHTTP(w, r.WithContext(contextWithCaller(r.Context(), Caller{UID: 0})))
	if w.Code != http.StatusNotFound {
		t.Errorf("an order over TCP: %d", w.Code)
	}
	if e, err := c.Explain(t.Context(), 0); err != nil || e.To != "n2" || e.Change.Term != 2 {
		t.Errorf("explain: %+v, %v", e, err)
	}
	if _, err := c.Explain(t.Context(), 99); err == nil || !strings.Contains(err.Error(), "not in the history") {
		t.Errorf("an unknown term: %v", err)
	}
}
