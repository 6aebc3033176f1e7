package cloudy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// catalog is a Lister with fixed entries.
type catalog struct {
	list []Entry
	err  error
}

func (c catalog) Entries(context.Context) ([]Entry, error) { return c.list, c.err }

func boards(name string) (string, netip.Addr, error) {
	switch name {
	case "wlan0", "":
		return "wlan0", netip.MustParseAddr("10.139.40.21"), nil
	}
	return name, netip.Addr{}, fmt.Errorf("interface %s has no IPv4 address", name)
}

// call runs one command line and returns what Cloudy's page sees: both streams, and
// the code.
func call(t *testing.T, s Standin, args ...string) (string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr, s.Node = &out, &errs, "pi1"
	if s.Address == nil {
		s.Address = boards
	}
	code := s.Run(t.Context(), args)
	return out.String() + errs.String(), code
}

func settings(t *testing.T, env string, files map[string]string) Settings {
	t.Helper()
	return ReadSettings(tree(t, files), func(k string) string {
		if k == "SEARCH_ONLY" {
			return env
		}
		return ""
	})
}

// TestPublish replays what Cloudy's page, its service files, and serf-publisher call.
func TestPublish(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "services.d")
	store := FileStore{Dir: dir}
	s := Standin{Settings: settings(t, "", nil), Store: store, Lister: store}
	for _, args := range [][]string{
		{"publish", "OpenVZ Web panel", "owp", "3000", ""},
		{"publish", "Syncthing instance running", "syncthing", "22000", "node_id=ABC-DEF&x=1 2"},
		{"publish", "nginx_web", "Docker", "8080", ""},
		{"publish", "nginx_web", "Docker", "8081"},
		{"publish", "hello-node", "kubernetes", "30080", "NodePort"},
		{"publish", "--help", "my_type", "1", "10.139.40.21"},
	} {
		if out, code := call(t, s, args...); code != 0 || !strings.HasPrefix(out, "published ") {
			t.Errorf("%q: %d, %s", args, code, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "avahi-ps-syncthing-22000.yaml"))
	want := "# Written by avahi-ps; `avahi-ps unpublish syncthing 22000` removes it.\nname: Syncthing instance running\ntype: _syncthing._tcp\nport: 22000\ntxt:\n    - node_id=ABC-DEF\n    - x=1 2\ncloudy: true\n"
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	// The same again is not written, another description is.
	before, _ := os.Stat(filepath.Join(dir, "avahi-ps-owp-3000.yaml"))
	call(t, s, "publish", "OpenVZ Web panel", "owp", "3000")
	if after, err := os.Stat(filepath.Join(dir, "avahi-ps-owp-3000.yaml")); err != nil || !os.SameFile(before, after) {
		t.Errorf("an unchanged service was written: %v", err)
	}
	call(t, s, "publish", "Panel", "owp", "3000")
	list, err := store.Entries(t.Context())
	var names []string
	for _, e := range list {
		names = append(names, fmt.Sprint(e.Name, " ", e.Type, " ", e.Port))
	}
	if got := strings.Join(names, ", "); err != nil || got != "nginx_web _Docker._tcp 8080, nginx_web _Docker._tcp 8081, hello-node _kubernetes._tcp 30080, --help _my-type._tcp 1, Panel _owp._tcp 3000, Syncthing instance running _syncthing._tcp 22000" {
		t.Errorf("%s, %v", got, err)
	}

	// What others put there stays, and does not get in the way.
	for name, text := range map[string]string{"mine.yaml": "name: mine\n", "avahi-ps-Docker-8082.yaml": "port: [", "avahi-ps-x-1.yaml": "name: x\ntype: _x._tcp\nport: 0\n", ".avahi-ps-Docker-1.yaml-9": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := store.Entries(t.Context()); len(list) != 6 || err == nil || !strings.Contains(err.Error(), "avahi-ps-Docker-8082.yaml") || !strings.Contains(err.Error(), "avahi-ps-x-1.yaml") {
		t.Errorf("%v, %v", list, err)
	}
	for _, c := range []struct{ args, want string }{
		{"unpublish owp 3000", "unpublished 1\n"},
		{"unpublish owp 3000", "unpublished 0\n"},
		{"unpublish peerstreamer 1234 10.139.40.21", "unpublished 0\n"},
		{"unpublish my_type", "unpublished 1\n"},
		{"unpublish Docker", "unpublished 3\n"},
	} {
		if out, code := call(t, s, strings.Fields(c.args)...); code != 0 || out != c.want {
			t.Errorf("%s: %d, %s", c.args, code, out)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 5 { // kubernetes, syncthing, mine, x, and the hidden one
		t.Errorf("%q are left", files)
	}
}

func TestPublishRefuses(t *testing.T) {
	dir := t.TempDir()
	s := Standin{Store: FileStore{Dir: dir}}
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"publish", "x", "http"}, "avahi-ps, as relevo", 2},
		{[]string{"publish", "x", "http", ""}, `publish http : port "": 1 to 65535`, 1},
		{[]string{"publish", "x", "http", "0"}, "1 to 65535", 1},
		{[]string{"publish", "x", "TEST", "TEST"}, `port "TEST"`, 1},
		{[]string{"publish", " \x00", "http", "80"}, "description", 1},
		{[]string{"publish", "x", "../../etc/passwd\x1b[31m", "80"}, "1 to 15", 1},
		{[]string{"publish", "x", "a-type-of-16-let", "80"}, "1 to 15", 1},
		{[]string{"publish", "x", "http", "80", "=1"}, "attribute", 1},
		{[]string{"publish", "x", "http", "80", "a=" + strings.Repeat("b", 255)}, "attribute", 1},
		{[]string{"publish", "x", "http", "80", strings.Repeat("a=b&", 101)}, "attribute", 1},
		{[]string{"publish", "x", "http", "80", "a=\n"}, "attribute", 1},
		{[]string{"unpublish"}, "avahi-ps, as relevo", 2},
		{[]string{"unpublish", "http", "all"}, "port", 1},
		{[]string{"unpublish", "."}, "avahi-ps, as relevo", 2},
		{[]string{"info"}, "avahi-ps, as relevo", 2},
		{[]string{"info", "all"}, "avahi-ps, as relevo", 2},
		{[]string{"remove"}, "avahi-ps, as relevo", 2},
		{nil, "avahi-ps, as relevo", 0},
	} {
		out, code := call(t, s, c.args...)
		if code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "\x1b") {
			t.Errorf("%q: %d, %s", c.args, code, out)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("%v was written", files)
	}
	// A folder that cannot be written to, and one that is full.
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o644)
	if out, code := call(t, Standin{Store: FileStore{Dir: file}}, "publish", "x", "http", "80"); code != 1 || !strings.Contains(out, "publish http 80") {
		t.Errorf("%d, %s", code, out)
	}
	os.Remove(file)
	for i := range maxFiles {
		os.WriteFile(filepath.Join(dir, fmt.Sprint("avahi-ps-http-", 1000+i, ".yaml")), nil, 0o644)
	}
	if out, code := call(t, s, "publish", "x", "http", "80"); code != 1 || !strings.Contains(out, "200 services") {
		t.Errorf("%d, %s", code, out)
	}
	if out, code := call(t, s, "publish", "x", "http", "1001"); code != 0 {
		t.Errorf("one that is there: %d, %s", code, out)
	}
}

// TestSearchAsPage reads the answer as Cloudy's page does: the first line of both
// streams is the JSON.
func TestSearchAsPage(t *testing.T) {
	serf := settings(t, "serf", nil)
	list := []Entry{
		{Name: "Panel", Type: "_owp._tcp", Node: "c0ffee-123-pi-10.139.40.30:5000", Host: "c1.guifi.local", MicroCloud: "barn", Addrs: addrs("10.139.40.30"), Port: 3000, Origin: OriginCloudy},
		{Name: "no port, no address", Type: "_Docker._tcp", Node: "x' onclick='evil()", Description: "<img src=x>", TXT: []string{"a=1", "b= 2"}, Origin: OriginCloudy},
		{Name: "shop", Type: "_http._tcp", Node: "pi2", Port: 30080, Addrs: addrs("10.139.40.22"), Origin: "kubernetes"},
		{Name: "here", Type: "_ssh._tcp", Port: 22},
	}
	out, code := call(t, Standin{Settings: serf, Lister: catalog{list: list}}, "search")
	line, rest, _ := strings.Cut(out, "\n")
	if code != 0 || rest != "" {
		t.Fatalf("%d, %s", code, out)
	}
	var page []map[string]any
	if err := json.Unmarshal([]byte(line), &page); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	want := `[{"node_id":"x_onclick=evil()","s":"Docker","d":"img_src=x","m":"","i":"","p":"","e":"","t":"a=1&b=_2"},` +
		`{"node_id":"pi2","s":"http","d":"shop","m":"pi2.guifi.local","i":"10.139.40.22","p":"30080","e":"demo","t":""},` +
		`{"node_id":"c0ffee-123-pi-10.139.40.30:5000","s":"owp","d":"Panel","m":"c1.guifi.local","i":"10.139.40.30","p":"3000","e":"barn","t":""},` +
		`{"node_id":"pi1","s":"ssh","d":"here","m":"pi1.guifi.local","i":"10.139.40.21","p":"22","e":"demo","t":""}]`
	if line != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
	for args, want := range map[string]string{
		"search":                     "Docker http owp ssh",
		"search . .":                 "Docker http owp ssh",
		"search owp":                 "owp",
		"search _owp._tcp":           "owp",
		"search . pi2":               "http",
		"search . c1.guifi.local":    "owp",
		"search http c1":             "",
		"search ssh pi1 and no more": "ssh",
	} {
		out, _ := call(t, Standin{Settings: serf, Lister: catalog{list: list}}, strings.Fields(args)...)
		var page []struct{ S string }
		var kinds []string
		err := json.Unmarshal([]byte(out), &page)
		for _, p := range page {
			kinds = append(kinds, p.S)
		}
		if err != nil || strings.Join(kinds, " ") != want {
			t.Errorf("%s: %s, %v", args, out, err)
		}
	}
	// Nobody to ask: the page shows an empty list, a person reads why.
	out, code = call(t, Standin{Settings: serf, Lister: catalog{err: errors.New("the agent does not answer")}}, "search")
	if code != 1 || !strings.HasPrefix(out, "[]\n") || !strings.Contains(out, "search: the agent does not answer") {
		t.Errorf("%d, %s", code, out)
	}
	out, code = call(t, Standin{Settings: serf, Lister: catalog{}}, "search")
	if code != 0 || out != "[]\n" {
		t.Errorf("%d, %s", code, out)
	}
}

func TestSearchAsAvahi(t *testing.T) {
	list := []Entry{
		{Name: "Cámara 1.5; <b>\"x\"\\", Type: "_http._tcp", Node: "pi2", Port: 80, TXT: []string{"a=1", "b=2"}, Addrs: addrs("10.139.40.22")},
		{Name: "theirs", Type: "_owp._tcp", Host: "c1.guifi.local", Port: 3000, Origin: OriginCloudy},
	}
	out, code := call(t, Standin{Settings: settings(t, "avahi", nil), Lister: catalog{list: list}}, "search")
	if want := `_http._tcp;C\195\161mara\0321\0465\059\032b\034x\034\092;pi2.guifi.local;10.139.40.22;80;"a=1&b=2"` + "\n"; code != 0 || out != want {
		t.Errorf("%d, %s", code, out)
	}
	// Both, in the order of the script.
	both := settings(t, "", map[string]string{"etc/avahi-ps.conf": "EXECUTE_IN=memory\nDATABASE=serf\n"})
	out, _ = call(t, Standin{Settings: both, Lister: catalog{list: list}}, "search")
	if lines := strings.Split(out, "\n"); len(lines) != 3 || lines[0][0] != '_' || lines[1][0] != '[' {
		t.Errorf("%s", out)
	}
	out, code = call(t, Standin{Settings: settings(t, "ipfs", nil), Lister: catalog{list: list}}, "search")
	if code != 1 || !strings.Contains(out, `no "ipfs" here`) {
		t.Errorf("%d, %s", code, out)
	}
}

func TestInfo(t *testing.T) {
	eth := settings(t, "", map[string]string{"etc/cloudy/cloudy.conf": "PRIMARYINTERFACE=eth7\nPUBLIC_IP=\n"})
	fixed := settings(t, "", map[string]string{"etc/cloudy/cloudy.conf": "PUBLIC_IP=10.9.9.9\nCLOUD_NAME=sants\nDEVICE_NAME=barn\n"})
	for _, c := range []struct {
		s          Settings
		what, want string
		code       int
	}{
		{settings(t, "", nil), "ip", "10.139.40.21\n", 0}, // there is no eth0: the default route knows
		{settings(t, "", nil), "communitydev", "wlan0\n", 0},
		{settings(t, "", nil), "cloud", "guifi\n", 0},
		{settings(t, "", nil), "tincdev", "demo\n", 0},
		{eth, "ip", "avahi-ps: find the address in the community network: interface eth7 has no IPv4 address\n", 1},
		{eth, "communitydev", "eth7\n", 0},
		{fixed, "ip", "10.9.9.9\n", 0},
		{fixed, "communitydev", "eth0\n", 0},
		{fixed, "cloud", "sants\n", 0},
		{fixed, "tincdev", "barn\n", 0},
	} {
		if out, code := call(t, Standin{Settings: c.s}, "info", c.what); out != c.want || code != c.code {
			t.Errorf("info %s: %d, %q, want %q", c.what, code, out, c.want)
		}
	}
	// The real ones.
	if _, a, err := HostAddress("lo"); err == nil {
		t.Errorf("loopback is nobody's address in a community: %s", a)
	}
	if _, _, err := HostAddress("no-such-device"); err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("%v", err)
	}
	if d, a, err := HostAddress(""); err == nil {
		if e, b, err := HostAddress(d); err != nil || e != d || !b.IsValid() || !others(a) {
			t.Errorf("%s has %s by the default route, %s by itself, %v", d, a, b, err)
		}
	}
}

// FuzzSearch: whatever the catalog holds, the page gets one line of JSON that it can
// show as it is.
func FuzzSearch(f *testing.F) {
	f.Add("shop", "_http._tcp", "it's <b>", "node\"1", "h<o>st", "a=1 2", 80, true)
	f.Fuzz(func(t *testing.T, name, kind, description, node, host, txt string, port int, theirs bool) {
		e := Entry{Name: name, Type: kind, Description: description, Node: node, Host: host, TXT: []string{txt}, Port: port}
		if theirs {
			e.Origin = OriginCloudy
		}
		out, _ := call(t, Standin{Settings: Settings{Backends: []string{"serf"}}, Lister: catalog{list: []Entry{e}}}, "search")
		var page []map[string]string
		if err := json.Unmarshal([]byte(out), &page); err != nil || strings.Count(out, "\n") != 1 {
			t.Fatalf("%q: %v", out, err)
		}
		for _, s := range page {
			if len(s) != 8 {
				t.Errorf("keys %v", slices.Collect(maps.Keys(s)))
			}
			for _, v := range s {
				if strings.ContainsAny(v, "<>\"'`\\ \n\x00\x1b") {
					t.Errorf("%q reaches the page", v)
				}
			}
		}
	})
}
