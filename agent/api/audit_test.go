package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestEvents: what changes something is told with its outcome, questions are not.
func TestEvents(t *testing.T) {
	var got []string
	s := &Server{cfg: Config{Source: &fake{}, Event: func(e Event) {
		got = append(got, strings.Join([]string{e.Who.Name, e.Action, e.Target, e.Outcome, e.Why}, "|"))
	}}}
	for _, c := range []struct {
		role                     AccessRole
		method, path, body, want string
	}{
		{Operator, "GET", "/v1/status", "", ""},
		{Operator, "POST", "/v1/do", `{"verb":"step-down","to":"n2","why":"rehearsal"}`, "ann|step-down|n2|done|rehearsal"},
		{Operator, "POST", "/v1/do", `{"verb":"pause","why":"refuse"}`, "ann|pause||refused|nobody is ready to take over"},
		{Operator, "POST", "/v1/do", `{"verb":"switchover","to":"n2","dry_run":true}`, ""},
		{Viewer, "POST", "/v1/do", `{"verb":"switchover","to":"n2","dry_run":true}`, `ann|switchover||denied|"switchover" needs the role operator, and ann has viewer: use sudo, or join the group once with ` + "`" + `sudo adduser $USER relevo` + "`" + ` and log in again`},
		{Admin, "POST", "/v1/do", `{"verb":"remove","to":"n3","by":"bob"}`, "bob|remove|n3|done|"},
		{Viewer, "POST", "/v1/do", `{"verb":"remove","to":"n3","by":"bob"}`, `ann|remove||denied|"remove" needs the role admin, and ann has viewer: use sudo`},
		{Admin, "POST", "/v1/burn", "", "ann|burn create||refused|"},
		{Viewer, "POST", "/v1/burn", "", `ann|burn||denied|"burn" needs the role admin, and ann has viewer: use sudo`},
	} {
		got = nil
		h := s.guard(s.questions(), func(*http.Request) Who { return Who{Name: "ann", Role: c.role} })
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if strings.Join(got, "\n") != c.want {
			t.Errorf("%s %s: told %q, want %q", c.method, c.path, got, c.want)
		}
	}
}
