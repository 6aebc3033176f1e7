package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/catalog/check"
	"relevo.dev/relevo/agent/cloudy"
)

const full = `# everything there is
- name: "Web on %h"
  type: _http._tcp
  subtypes: [_printer]
  port: 8080
  description: "a page"
  txt: {path: /, n: 1}
  address: 192.168.1.50
  host: shop
  cloudy: true
  check: {http: /health, tcp: true, unit: shop.service, interval: 30s, timeout: 3s}
- name: Files
  type: _smb._tcp
  port: 445
  txt: [a=b, "c"]
`

func TestYAML(t *testing.T) {
	got, errs := ParseYAML("f", []byte(full))
	if len(errs) > 0 || len(got) != 2 {
		t.Fatalf("%+v %v", got, errs)
	}
	w := got[0]
	want := check.Spec{TCP: "192.168.1.50:8080", HTTP: "http://192.168.1.50:8080/health", Unit: "shop.service", Interval: 30 * time.Second, Timeout: 3 * time.Second}
	if *w.Check != want || !w.Public || w.TXT[0] != "path=/" || w.TXT[1] != "n=1" || w.Addr.String() != "192.168.1.50" || w.Subtypes[0] != "_printer" {
		t.Errorf("%+v %+v", w, w.Check)
	}
	if got[1].Check != nil || got[1].Public || len(got[1].TXT) != 2 {
		t.Errorf("%+v", got[1])
	}
	one, errs := ParseYAML("f", []byte("name: x\ntype: _https._tcp\nport: 443\ncheck: {http: /}\n"))
	if len(errs) > 0 || one[0].Check.HTTP != "https://:443/" || one[0].Check.Timeout != 2*time.Second {
		t.Errorf("%+v %v", one, errs)
	}
	for _, none := range []string{"", "# nothing\n", "~", "[]"} {
		if got, errs := ParseYAML("f", []byte(none)); len(got) > 0 || len(errs) > 0 {
			t.Errorf("%q: %v %v", none, got, errs)
		}
	}
}

// Each mistake is told where it is, and alone.
func TestYAMLMistakes(t *testing.T) {
	const head = "name: x\ntype: _http._tcp\n"
	for text, want := range map[string]string{
		"name: x\ntype: http\nport: 80\n":                  `f:2:7: type: "http": something like _http._tcp`,
		head + "port: 0\n":                                 `f:3:7: port: "0": a whole number from 1 to 65535`,
		head + "port: 70000\n":                             "f:3:7: port",
		head + "port: \"80\"\n":                            "f:3:7: port",
		head + "port: <b>\n":                               "f:3:7: port",
		head + "port: 1e3\n":                               "f:3:7: port",
		head:                                               "f:1:1: port is missing",
		head + "port: 80\nprot: 1\n":                       `f:4:1: unknown key "prot": known are address, check`,
		head + "port: 80\nport: 81\n":                      "f:4:1: port is given twice: first at line 3",
		"name: 7\ntype: _http._tcp\nport: 80\n":            `f:1:7: name: a text is needed: write it in quotes, "7"`,
		"name: \"a\\u0007\"\ntype: _http._tcp\nport: 80\n": "f:1:7: name: \"a\\a\" has control characters",
		"name: \"\"\ntype: _http._tcp\nport: 80\n":         "f:1:7: name: it is empty",
		"name: " + strings.Repeat("x", 500) + "\ntype: _http._tcp\nport: 80\n": "f:1:7: name: it has 500 bytes",
		head + "port: 80\ntxt: a=b\n":                                          "f:4:6: txt: a list",
		head + "port: 80\ntxt: {a: [1]}\n":                                     "f:4:10: txt: \"a\"",
		head + "port: 80\ncloudy: yes\n":                                       "f:4:9: cloudy: \"yes\": true or false",
		head + "port: 80\naddress: 127.0.0.1\n":                                "f:4:10: address",
		head + "port: 80\naddress: 0.0.0.0\n":                                  "f:4:10: address",
		head + "port: 80\ncheck: {}\n":                                         "f:4:8: check: at least one of tcp, http and unit",
		head + "port: 80\ncheck: true\n":                                       "f:4:8: a check is needed here, with keys: http, interval",
		head + "port: 80\ncheck: {tcp: x}\n":                                   "f:4:14: check.tcp",
		head + "port: 80\ncheck: {http: 'ftp://x/'}\n":                         "f:4:15: check.http",
		head + "port: 80\ncheck: {http: 'http://u:p@h/'}\n":                    "f:4:15: check.http",
		head + "port: 80\ncheck: {unit: grafana}\n":                            "f:4:15: check.unit",
		head + "port: 80\ncheck: {tcp: true, interval: 5}\n":                   "f:4:30: check.interval: \"5\": a time from 1s to 1h is needed",
		head + "port: 80\ncheck: {tcp: true, interval: 1s, timeout: 5s}\n":     "f:4:8: check: the timeout of 5s is longer",
		head + "port: &a 80\n":                                                 "f:3:7: port: anchors",
		head + "port: !!int 80\n":                                              "f:3:7: port: anchors",
		"a: [\n":                                                               "f:1:1: is not YAML near this line",
		"name: a\n\tb: c\n":                                                    "f:2:1: is not YAML",
		"just text\n":                                                          "f:1:1: a service is needed here, with keys",
		head + "port: 80\n---\nname: y\n":                                      "f:4:1: a second document",
	} {
		_, errs := ParseYAML("f", []byte(text))
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), want) {
			t.Errorf("%q:\n%v\nwant %s", text, errs, want)
		}
	}
	// A mistake costs its own service only.
	got, errs := ParseYAML("f", []byte("- name: a\n  type: _http._tcp\n  port: 1\n- name: b\n- name: c\n  type: _http._tcp\n  port: 3\n"))
	if len(got) != 2 || len(errs) != 2 {
		t.Errorf("%+v %v", got, errs)
	}
}

const group = `<?xml version="1.0" standalone='no'?><!--*-nxml-*-->
<!DOCTYPE service-group SYSTEM "avahi-service.dtd">
<service-group>
  <name replace-wildcards="yes">Page of %h</name>
  <service protocol="ipv4">
    <type>_http._tcp</type>
    <subtype>_printer._sub._http._tcp</subtype>
    <port>80</port>
    <host-name>nas.local</host-name>
    <txt-record>path=/a&amp;b</txt-record>
    <txt-record value-format="binary-hex">x=4142</txt-record>
    <txt-record value-format="binary-base64">y=QUI=</txt-record>
  </service>
  <service><type>_ssh._tcp</type><port>22</port></service>
</service-group>
`

func TestXML(t *testing.T) {
	got, errs := ParseXML("f", []byte(group))
	if len(errs) > 0 || len(got) != 2 {
		t.Fatalf("%+v %v", got, errs)
	}
	if w := got[0]; w.Name != "Page of %h" || w.Host != "nas" || strings.Join(w.TXT, " ") != "path=/a&b x=AB y=AB" || w.Subtypes[0] != "_printer" || w.Port != 80 {
		t.Errorf("%+v", w)
	}
	for text, want := range map[string]string{
		strings.Replace(group, "<port>80", "<port>99999", 1):                  "f:8:5: port \"99999\"",
		strings.Replace(group, "_http._tcp<", "http<", 1):                     "f:6:5: type \"http\"",
		strings.Replace(group, "<port>80</port>", "", 1):                      "f:5:3: <port> is missing",
		strings.Replace(group, "4142", "4g", 1):                               "f:11:5: txt-record",
		strings.Replace(group, "nas.local", "nas.example.org", 1):             "f:9:5: host-name",
		strings.Replace(group, "</service>", "", 1):                           "f:15:",
		strings.Replace(group, "<name ", "<nom ", 1):                          "f:4:",
		strings.Replace(group, `protocol="ipv4"`, `protocol="ipv6"`, 1):       "f:5:3: protocol",
		strings.Replace(group, "</service-group>", "<x/></service-group>", 1): "f:15:1: <x>",
		"<a/>":       "f:1:1: <a>: a <service-group> is needed",
		"":           "f:1:1: is not XML here: EOF",
		"<a>&b;</a>": "f:1:",
	} {
		_, errs := ParseXML("f", []byte(text))
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), want) {
			t.Errorf("%.60q…:\n%v\nwant %s", text, errs, want)
		}
	}
}

// TestOneSchema: what avahi-ps writes is read here, and is for the community.
func TestOneSchema(t *testing.T) {
	dir := t.TempDir()
	e := cloudy.Entry{Name: "Syncthing: 100 % \"quoted\"", Type: "_syncthing._tcp", Port: 22000, Description: "yes", TXT: []string{"node_id=ABC", "n=1"}}
	if err := (cloudy.FileStore{Dir: dir}).Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	entries, _, problems := parse(read(dir), "n1")
	if len(problems) > 0 || len(entries) != 1 {
		t.Fatalf("%+v %v", entries, problems)
	}
	if g := entries[0]; g.Name != e.Name || g.Type != e.Type || g.Port != e.Port || g.Description != "yes" || len(g.TXT) != 2 || !g.Public {
		t.Errorf("%+v", g)
	}
}

type declared struct {
	entries  []catalog.Entry
	problems []catalog.Problem
}

// source runs a Source over dir; what it declares comes out.
func source(t *testing.T, dir string, unit func(context.Context, string) error) <-chan declared {
	out := make(chan declared, 100)
	s := &Source{Dir: dir, Node: "n1", Runner: check.New(func() string { return "127.0.0.1" }, unit), Log: slog.New(slog.DiscardHandler),
		Set: func(e []catalog.Entry, p []catalog.Problem) { out <- declared{e, p} }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

// await reads what is declared until ok.
func await(t *testing.T, ch <-chan declared, what string, ok func(declared) bool) {
	t.Helper()
	limit := time.After(time.Minute)
	var last declared
	for {
		select {
		case last = <-ch:
			if ok(last) {
				return
			}
		case <-limit:
			t.Fatalf("never %s; last %+v", what, last)
		}
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name)
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o644), os.Rename(tmp, filepath.Join(dir, name))); err != nil {
		t.Fatal(err)
	}
}

// TestSource follows a folder that comes, changes, goes and comes back.
func TestSource(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "services.d")
	sick := make(chan error, 100)
	ch := source(t, dir, func(context.Context, string) error {
		select {
		case err := <-sick:
			return err
		default:
			return nil
		}
	})
	await(t, ch, "empty", func(d declared) bool { return len(d.entries)+len(d.problems) == 0 })
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a.yaml", "name: A on %h\ntype: _http._tcp\nport: 80\n")
	await(t, ch, "A", func(d declared) bool { return len(d.entries) == 1 && d.entries[0].Name == "A on n1" })
	put(t, dir, "b.service", group)
	put(t, dir, "c.yaml~", "nonsense: [")
	await(t, ch, "three", func(d declared) bool { return len(d.entries) == 3 && len(d.problems) == 0 })
	put(t, dir, "c.yaml", "name: C\ntype: _http._tcp\n")
	await(t, ch, "a problem, and the rest goes on", func(d declared) bool {
		return len(d.entries) == 3 && len(d.problems) == 1 && strings.HasPrefix(d.problems[0].Text, filepath.Join(dir, "c.yaml")+":1:1: port is missing")
	})
	put(t, dir, "c.yaml", "name: C\ntype: _http._tcp\nport: 81\ncheck: {unit: x.service, interval: 1s, timeout: 1s}\n")
	of := func(d declared) catalog.Entry {
		for _, e := range d.entries {
			if e.Name == "C" {
				return e
			}
		}
		return catalog.Entry{}
	}
	await(t, ch, "checking", func(d declared) bool { return of(d).Health == catalog.Checking })
	await(t, ch, "well", func(d declared) bool { return of(d).Health == catalog.OK })
	for range 3 {
		sick <- errors.New("it is inactive")
	}
	await(t, ch, "failing", func(d declared) bool {
		return of(d).Health == catalog.Failing && strings.Contains(of(d).Why, "it is inactive")
	})
	await(t, ch, "well again", func(d declared) bool { return of(d).Health == catalog.OK })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	await(t, ch, "gone", func(d declared) bool { return len(d.entries) == 0 })
}

// Whatever lies in the folder, nobody waits for it.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	big := strings.Repeat("# filling\n", maxSize/8)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d.yaml"), 0o755), os.WriteFile(filepath.Join(dir, "big.yaml"), []byte(big), 0o644),
		os.Symlink("/nowhere", filepath.Join(dir, "s.yaml")), os.Symlink("/dev/zero", filepath.Join(dir, "z.yaml"))); err != nil {
		t.Fatal(err)
	}
	c := read(dir)
	if len(c.texts) != 0 || len(c.faults) != 3 {
		t.Errorf("%v", c.faults)
	}
	for i := range maxFiles + 10 {
		put(t, dir, fmt.Sprintf("f%d.yaml", i), "")
	}
	if c := read(dir); len(c.texts) > maxFiles {
		t.Errorf("%d files", len(c.texts))
	}
}

func FuzzYAML(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("- check: {tcp: true}\n  ? [x]\n  : y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxSize {
			return
		}
		got, errs := ParseYAML("f", b)
		for _, s := range got {
			if s.Port < 1 || s.Port > 65535 || s.Name == "" || s.Type == "" {
				t.Fatalf("%+v", s)
			}
		}
		for _, e := range errs {
			if len(e.Error()) > 2000 {
				t.Fatalf("%d bytes", len(e.Error()))
			}
		}
	})
}

func FuzzXML(f *testing.F) {
	f.Add([]byte(group))
	f.Add([]byte("<service-group><name>x</name><service></service></service-group>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxSize {
			return
		}
		got, _ := ParseXML("f", b)
		for _, s := range got {
			if s.Port < 1 || s.Port > 65535 || s.Name == "" || s.Type == "" {
				t.Fatalf("%+v", s)
			}
		}
	})
}
