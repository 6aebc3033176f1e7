package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// called notes what a request made the agent do, as the table of roles calls it.
type called struct {
	fake
	actions []string
}

func (c *called) Do(ctx context.Context, o Order) (Done, error) {
	c.actions = append(c.actions, o.Action())
	return c.fake.Do(ctx, o)
}

func (c *called) Tokens(context.Context) (Tokens, error) {
	c.actions = append(c.actions, "tokens")
	return Tokens{}, nil
}

func (c *called) History(ctx context.Context) (History, error) {
	c.actions = append(c.actions, "history")
	return c.fake.History(ctx)
}

func (c *called) AccessList(context.Context) (AccessList, error) {
	c.actions = append(c.actions, "access")
	return AccessList{}, nil
}

func (c *called) AccessCreate(context.Context, AccessRequest) (AccessCreated, error) {
	c.actions = append(c.actions, "access")
	return AccessCreated{}, nil
}

func (c *called) AccessRevoke(context.Context, string) (Done, error) {
	c.actions = append(c.actions, "access")
	return Done{}, nil
}

func (c *called) Granted(string, string) (Access, error) { return Access{}, nil }

// FuzzRequest: however a request is written, nobody has the agent do, or tell, what is not
// his by the table; the page for machines only tells, and only to who asks by its own name;
// an answer is JSON, or text, whatever was asked.
func FuzzRequest(f *testing.F) {
	for i := range uint8(5) {
		f.Add("POST", "/v1/do", "", "", `{"verb":"resume","force":true}`, i)
		f.Add("POST", "//v1/do", "", "", `{"verb":"pause"}`, i)
		f.Add("POST", "/v1/do", "", "", `{"verb":"status"}`, i)
		f.Add("POST", "/v1/status/../do", "", "", `{"verb":"pause","to":"n9"}`, i)
		f.Add("GET", "/v1/history?x=1", "", "", "", i)
		f.Add("GET", "/v1/status%2f..%2ftokens", "", "", "", i)
		f.Add("POST", "/v1/access/revoke", "", "", `{"name":"x"}`, i)
		f.Add("POST", "/v1/access", "", "", `{"name":"x","role":"admin"}`, i)
		f.Add("HEAD", "/v1/tokens", "", "", "", i)
		f.Add("GET", "/v1/explain?term=99", "", "", "", i)
		f.Add("GET", "/metrics", "evil.example", "http://evil.example", "", i)
		f.Add("GET", "/readyz", "n1.local:80", "http://n1.local:80", "", i)
		f.Add("GET", "/v1/explain?term=-1", "[::1]:80", "", "\x00", i)
	}
	roles := []AccessRole{NoAccess, StatusOnly, Viewer, Operator, Admin}
	f.Fuzz(func(t *testing.T, method, target, host, origin, body string, role uint8) {
		r, err := http.NewRequest(method, "http://relevo"+target, strings.NewReader(body))
		if err != nil || r.URL.Host != "relevo" {
			return
		}
		if r.Host = "n1"; host != "" {
			r.Host = host
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		who := Who{Name: "ann", Role: roles[int(role)%len(roles)]}
		src := &called{}
		s := &Server{cfg: Config{Node: "n1", Source: src, Grants: src}}
		answered := func(h http.Handler) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.Clone(t.Context()))
			if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
				t.Fatalf("%q", w.Body)
			}
			if w.Code >= 500 && w.Code != http.StatusServiceUnavailable && w.Code != http.StatusNotImplemented {
				t.Fatalf("%d %q", w.Code, w.Body)
			}
			return w
		}
		answered(bounded(s.guard(s.questions(), func(*http.Request) Who { return who })))
		for _, action := range src.actions {
			if rank[who.Role] < rank[LowestRole(action)] || origin != "" {
				t.Fatalf("%s did %q by %s %s %q", who.Role, action, method, target, body)
			}
			if r.URL.Path == pathDo && rank[who.Role] < rank[Operator] {
				t.Fatalf("%s gave the order %q", who.Role, body)
			}
		}

		src.actions = nil
		r.Body = http.NoBody
		w := answered(s.tcpHandler())
		if len(src.actions) > 0 {
			t.Fatalf("%v by %s %s over TCP", src.actions, method, target)
		}
		if w.Code != http.StatusOK {
			return
		}
		name := strings.ToLower(strings.TrimSuffix(r.URL.Hostname(), "."))
		if h, err := http.NewRequest("GET", "http://"+r.Host, nil); err == nil {
			name = strings.ToLower(strings.TrimSuffix(h.URL.Hostname(), "."))
		}
		_, noIP := netip.ParseAddr(name)
		if noIP != nil && !slices.Contains([]string{"n1", "n1.local", "localhost"}, name) || method != "GET" && method != "HEAD" && method != "" {
			t.Fatalf("%s %s is answered to who asks for %q", method, target, r.Host)
		}
	})
}
