package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent/api"
)

// What an agent answers is another's word: with --context it comes from a host that nobody
// here looks after, and much of what any agent tells it was told by gossip, by mDNS or by
// an API server. Whatever it is, it must not steer the terminal on which it is shown.

// harmless fails if a terminal would do more with text than to show it.
func harmless(t *testing.T, text string) {
	t.Helper()
	if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && (r == unicode.ReplacementChar || !unicode.IsPrint(r)) }); i >= 0 {
		t.Fatalf("%q reaches the terminal in\n%q", text[i:min(len(text), i+8)], text)
	}
}

// shows reads an answer as T and shows it for people.
func shows[T any](show func(p *page, v T)) func(p *page, b []byte) (any, error) {
	return func(p *page, b []byte) (any, error) {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, err
		}
		show(p, v)
		return &v, nil
	}
}

// shown are the answers, by the way in which they are shown.
var shown = []func(p *page, b []byte) (any, error){
	shows(showStatus), shows(showMembers), shows(showHistory), shows(showExplanation), shows(showServices), shows(showBrowsed),
	shows(showAudit), shows(showTokens), shows(showRotation), shows(showAccess), shows(showFindings), shows(showProblems),
	shows(func(p *page, h api.Health) { showHealth(p, h, nil) }),
	shows(func(p *page, h api.Health) { showHealth(p, h, []string{"n1"}) }),
	shows(func(p *page, h api.Health) {
		p.b.WriteString(topText(&app{now: func() time.Time { return p.now }}, h, 80))
	}),
}

// FuzzShown: an answer, however odd, is shown or refused; what is shown is text and no more
// than can be read; as JSON and YAML it is harmless too, and still the same answer.
func FuzzShown(f *testing.F) {
	bad := strings.Repeat("x", 2000)
	for i := range shown {
		for _, s := range []string{
			`{"cluster":"home","node":"n\u001b[2J","term":18446744073709551615,"master":{"node":"\u009b1m","lease_remaining_seconds":-1e308,"since":"0000-01-01T00:00:00Z"},
			  "standbys":[{"node":"n2","lag_seconds":1e308,"lag_revisions":9,"verified":{"error":"\u202e"},"rehearsed":{"ok":true,"ready_seconds":-1}}],"vip":{},"pause":{},
			  "neighbours":[{"cluster":"é","cluster_id":"ééééééé"}],"problems":[{"severity":"critical","what":"a\nb"}],"cluster_id":"ééééééé"}`,
			`{"members":[{"node":"n1"},{"node":"` + bad + `","address":"` + bad + `","version":"` + bad + `","status":"` + bad + `","since":"9999-12-31T23:59:59Z"}` + strings.Repeat(",{}", 900) + `]}`,
			`{"changes":[{"term":1,"notes":["\u0000"],"steps":[{"seconds":1e300}]},{}],"change":{},"views":[{"lease_remaining_seconds":1}],"timeline":[{"at":"0001-01-01T00:00:00Z"}],"knew":"9999-01-01T00:00:00Z","holder":["a"]}`,
			`{"services":[{"name":"a","addresses":["x","y"],"port":-1},{"port":80}],"problems":[{}],"backend":"off"}`,
			`{"records":[{}],"members_without_answer":["\t"],"tokens":[{"used":-1}],"access":[{"expires":"0001-01-01T00:00:00Z"}],"gossip_key":{"stage":1},"ca":{"stage":1,"missing":["a"],"access":["b"]}}`,
			`{"nodes":[{"node":"n1","report":{"disks":[{"free":1e300,"total":-1}],"cooling":[{"state":1}],"zram_data":1},"conditions":[{"type":"x","status":true,"for_seconds":1e300}],"lag_seconds":-1},{"gossiped":["x"]}]}`,
			`[{"check":"a","what":"\u007f","do":"x"},{"severity":"x"}]`,
		} {
			f.Add(uint8(i), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, what uint8, b []byte) {
		p := &page{now: now}
		v, err := shown[int(what)%len(shown)](p, b)
		if err != nil {
			return
		}
		harmless(t, p.b.String())
		if n := p.b.Len(); n > 64<<10+400*len(b) {
			t.Fatalf("%d bytes are shown of an answer of %d", n, len(b))
		}
		for _, f := range []format{formatJSON, formatYAML} {
			text, err := encode(f, v)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			harmless(t, text)
			read := json.Unmarshal
			if f == formatYAML {
				read = func(b []byte, v any) error { return yaml.Unmarshal(b, v) }
			}
			var got, want any
			plain, _ := json.Marshal(v)
			if err := read([]byte(text), &got); err != nil {
				t.Fatalf("%s: %v in\n%s", f, err, text)
			}
			if err := read([]byte(escape(f, string(plain))), &want); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: %v, %v became %v", f, err, want, got)
			}
		}
	})
}

// askingLines are command lines that ask an agent.
var askingLines = []string{"status", "members", "health", "health n1", "history", "history --audit", "explain", "services", "services --browse --for 0s", "top --once",
	"token list", "token create", "token revoke --all", "access list", "access revoke x", "rotate gossip-key", "rotate status", "pause", "step-down --wait 0s",
	"step-down --wait 20ms", "switchover --wait 20ms", "switchover --dry-run", "replica verify", "rehearse", "status -o json", "members -o yaml"}

// FuzzCommand: an agent that answers anything to what it is asked by a whole command line,
// with any status, does not steer the terminal: also not through what is an error.
func FuzzCommand(f *testing.F) {
	for i := range askingLines {
		f.Add(uint8(i), uint16(503), []byte(`{"error":"no \u001b]0;quorum\u0007 \u009b2J"}`))
		f.Add(uint8(i), uint16(200), []byte(`{"text":"done\u001b[2J","term":1,"token":"\u001b[1m","plan":{"from":"\u001b","checks":[{}]},"error":"x","master":{"node":"\u001b[2J","term":2,"api":"ok"},"nodes":[{"node":"n\u001b"}]}`))
		f.Add(uint8(i), uint16(200), []byte("{\x1b[2J"))
		f.Add(uint8(i), uint16(404), []byte("\x1b[2J"))
	}
	dir, err := os.MkdirTemp("", "rv")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		f.Fatal(err)
	}
	var mu sync.Mutex
	var code int
	var body []byte
	s := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(code)
		w.Write(body)
	})}
	go s.Serve(l)
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, line uint8, status uint16, b []byte) {
		mu.Lock()
		code, body = 200+int(status)%400, b
		mu.Unlock()
		var out, errs bytes.Buffer
		a := &app{stdout: &out, stderr: &errs, now: func() time.Time { return now }, env: func(string) string { return "" }}
		args := strings.Fields(askingLines[int(line)%len(askingLines)])
		run(t.Context(), append([]string{"--socket", l.Addr().String()}, args...), a)
		harmless(t, out.String())
		harmless(t, errs.String())
	})
}
