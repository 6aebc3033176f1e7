package api

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRules: the table in the docs is the table in the code, and it knows every verb.
func TestRules(t *testing.T) {
	doc, err := os.ReadFile("../../docs/roles.md")
	if err != nil {
		t.Fatal(err)
	}
	var told []Rule
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z -]+) \| (status|viewer|operator|admin) \| (.+) \|$`).FindAllStringSubmatch(string(doc), -1) {
		told = append(told, Rule{m[1], AccessRole(m[2]), m[3]})
	}
	if !reflect.DeepEqual(told, Rules) {
		t.Errorf("docs/roles.md says\n%v\nthe code\n%v", told, Rules)
	}
	seen := map[string]bool{}
	for _, r := range Rules {
		if seen[r.Action] {
			t.Errorf("%s is in the table twice", r.Action)
		}
		seen[r.Action] = true
		if strings.HasSuffix(r.Action, " --force") && r.Role != Admin {
			t.Errorf("%s is not an admin's", r.Action)
		}
	}
	src, err := os.ReadFile("order.go")
	if err != nil {
		t.Fatal(err)
	}
	verbs := regexp.MustCompile(`Verb\w+ +Verb = "([a-z-]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(verbs) < 7 {
		t.Fatalf("only %d verbs were found", len(verbs))
	}
	for _, v := range verbs {
		if !seen[v[1]] {
			t.Errorf("the verb %s is in no row of the table", v[1])
		}
	}
}

// requests are one for every row of the table, and some that are in none.
func requests() map[string]*http.Request {
	out := map[string]*http.Request{}
	for _, r := range Rules {
		verb, _, force := strings.Cut(r.Action, " --force")
		switch {
		case slices.Contains([]string{"status", "members", "services", "health", "history", "explain"}, verb):
			out[r.Action] = httptest.NewRequest(http.MethodGet, "/v1/"+verb, nil)
		case verb == "metrics":
			out[r.Action] = httptest.NewRequest(http.MethodGet, "/metrics", nil)
		case verb == "access" || verb == "audit" || verb == "doctor":
			out[r.Action] = httptest.NewRequest(http.MethodGet, "/v1/"+verb, nil) // mounted or not: judged before
		default:
			b, _ := json.Marshal(Order{Verb: Verb(verb), Force: force})
			out[r.Action] = httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(string(b)))
		}
	}
	out["a verb of tomorrow"] = httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(`{"verb":"burn"}`))
	out["a path of tomorrow"] = httptest.NewRequest(http.MethodPost, "/v1/burn", nil)
	out["a question that changes something"] = httptest.NewRequest(http.MethodPost, "/v1/status", nil)
	return out
}

// TestEveryRole: each role may do exactly what the table says; what is denied is told.
func TestEveryRole(t *testing.T) {
	for role := range rank {
		for action := range requests() {
			var denials []string
			s := &Server{cfg: Config{Source: &fake{}, Event: func(e Event) {
				if e.Outcome == Denied {
					denials = append(denials, e.Who.Name+" "+e.Action)
				}
			}}}
			h := s.guard(s.questions(), func(*http.Request) Who { return Who{Name: "ann", Role: role} })
			w := httptest.NewRecorder()
			h.ServeHTTP(w, requests()[action])
			may := rank[role] >= rank[LowestRole(action)]
			if denied := w.Code == http.StatusForbidden; denied == may {
				t.Errorf("%s as %s: %d %s", action, role, w.Code, w.Body)
			}
			if may != (len(denials) == 0) {
				t.Errorf("%s as %s: told %v", action, role, denials)
			}
		}
	}
}

// TestLocalRoles: the kernel's word decides who is what.
func TestLocalRoles(t *testing.T) {
	s := &Server{cfg: Config{Group: "root", Others: StatusOnly}} // gid 0 is there on every host
	for _, c := range []struct {
		caller *Caller
		want   AccessRole
	}{
		{&Caller{UID: 0}, Admin},
		{&Caller{UID: uint32(os.Geteuid()), GID: 4711}, Admin},
		{&Caller{UID: 4711, GID: 0}, Operator},
		{&Caller{UID: 4711, GID: 4711, Groups: []uint32{1, 0}}, Operator},
		{&Caller{UID: 4711, GID: 4711, Groups: []uint32{1}}, StatusOnly},
		{nil, NoAccess},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.caller != nil {
			r = r.WithContext(contextWithCaller(r.Context(), *c.caller))
		}
		if got := s.local(r); got.Role != c.want {
			t.Errorf("%+v is %q, want %s", c.caller, got.Role, c.want)
		}
	}
}

// TestBy: who is named cannot be chosen by those who are no admins.
func TestBy(t *testing.T) {
	s := &Server{cfg: Config{Source: &fake{}}}
	for _, c := range []struct {
		who  Who
		want string
	}{
		{Who{Name: "root", Role: Admin}, "by=eve"},
		{Who{Name: "ann", Role: Operator}, "by=ann"},
		{Who{Name: "laptop", From: "10.77.0.9", Role: Admin, Remote: true}, "by=laptop from 10.77.0.9"},
	} {
		w := httptest.NewRecorder()
		s.guard(s.questions(), func(*http.Request) Who { return c.who }).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(`{"verb":"pause","by":"eve"}`)))
		if !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%+v: %s", c.who, w.Body)
		}
	}
}

// TestOrigin: a web page in the browser of somebody who may is not that somebody.
func TestOrigin(t *testing.T) {
	s := &Server{cfg: Config{Source: &fake{}}}
	r := httptest.NewRequest(http.MethodPost, "/v1/do", strings.NewReader(`{"verb":"pause"}`))
	r.Header.Set("Origin", "https://example.org")
	w := httptest.NewRecorder()
	s.guard(s.questions(), func(*http.Request) Who { return Who{Name: "root", Role: Admin} }).ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestPolicies limit an access to nodes and to actions.
func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		who    Who
		action string
		to     string
		why    string // "" = allowed
	}{
		{Who{Role: Operator, Nodes: []string{"n1"}}, "pause", "", ""},
		{Who{Role: Operator, Nodes: []string{"n2"}}, "pause", "", "limited to n2"},
		{Who{Role: Operator, Nodes: []string{"n1"}}, "step-down", "n2", "concerns n2"},
		{Who{Role: Operator, Nodes: []string{"n1", "n2"}}, "step-down", "n2", ""},
		{Who{Role: Operator, Actions: []string{"pause", "resume"}}, "pause", "", ""},
		{Who{Role: Operator, Actions: []string{"pause", "resume"}}, "status", "", ""},
		{Who{Role: Operator, Actions: []string{"pause"}}, "resume", "", "not among the actions"},
		{Who{Role: Viewer, Actions: []string{"pause"}}, "pause", "", "needs the role operator"},
	} {
		err := c.who.May(c.action, "n1", c.to)
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%+v %s %s: %v", c.who, c.action, c.to, err)
		}
	}
}

// TestPeerGroups: the groups of this very process, as the kernel tells.
func TestPeerGroups(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got []uint32
	raw.Control(func(fd uintptr) { got = peerGroups(fd) })
	want, err := unix.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if int(got[i]) != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
}
