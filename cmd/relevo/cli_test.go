package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// fake is an agent with fixed answers.
type fake struct {
	mu     sync.Mutex
	status api.Status
	health api.Health
	doctor api.Doctor
	err    error
	asked  chan struct{} // told after each Status, if not nil
}

func (f *fake) Status(ctx context.Context) (api.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked != nil {
		select {
		case f.asked <- struct{}{}:
		case <-ctx.Done():
		}
	}
	return f.status, f.err
}

func (f *fake) set(s api.Status, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status, f.err = s, err
}

func (f *fake) Members(context.Context) (api.Members, error) {
	return api.Members{Members: []api.Member{
		{Node: "n1", Address: "10.77.0.1:7946", Status: "alive", Role: api.RoleMaster, Voter: true, Candidate: true, Version: "0.1.0", Since: now.Add(-51 * time.Hour)},
		{Node: "n2", Address: "10.77.0.2:7946", Status: "failed", Role: api.RoleStandby, Voter: true, Candidate: true, Version: "0.1.0", Since: now.Add(-90 * time.Second), Conditions: []health.Type{health.UnderVoltage, health.Hot}, Copy: api.CopyStale},
		{Node: "n4", Address: "10.77.0.4:7946", Status: "alive", Role: api.RoleVoter, Voter: true, Arbiter: true},
	}}, f.err
}

func (f *fake) Health(context.Context) (api.Health, error) { return f.health, f.err }

func (f *fake) Explain(_ context.Context, term uint64) (api.Explanation, error) {
	if f.err != nil {
		return api.Explanation{}, f.err
	}
	if term == 99 {
		return api.Explanation{}, errors.New("term 99 is not in the history")
	}
	wait := 4.2
	return api.Explanation{Term: 2, Arbiter: "n3", Possible: true, To: "n2", Wait: wait, Notes: []string{"n2: ready, revision 7, lag 0s"},
		Change: &api.Change{Term: 2, Holder: "n1", Reason: "first master"}, Views: []api.View{{Node: "n1", Term: 2, Phase: "master", Arbiter: "n3", LeaseRemaining: &wait}}}, nil
}

func (f *fake) Do(_ context.Context, o api.Order) (api.Done, error) {
	if o.Verb == api.VerbRehearse {
		return api.Done{Text: "n2: ready in 14 s", Rehearsed: []api.Rehearsal{{Node: o.To, OK: o.To == "n2"}}}, nil
	}
	if o.Verb == api.VerbVerify {
		return api.Done{Text: "n2: equal\n  by " + o.By, Verified: []api.Verification{{Node: cmp.Or(o.To, "n2"), Equal: !o.Keep}}}, nil
	}
	if o.Why == "refuse" {
		return api.Done{}, errors.New("nobody is ready to take over")
	}
	if o.Token != nil {
		return api.Done{Text: fmt.Sprintf("good for %v s", o.Token.TTL), Token: "1K3Q9ZXW-7ZK2M0QD-Y4R8T1WX-1K3Q9ZXW-7ZK2M0QD-Y4R8T1WX"}, nil
	}
	if o.DryRun {
		p := api.Plan{From: "n1", To: o.To, Term: 2, Possible: o.To == "n2", Checks: []api.Check{
			{Check: "quorum", Result: "ok", What: "a majority of the voters is there, the arbiter is n4"},
			{Check: "virtual IP", Result: "warning", What: "nobody answers for it, also not n1"}}}
		if o.To != "n2" {
			p.Add(api.Check{Check: "space", Result: "wrong", What: "12 MB free, 300 MB are needed", Do: "make room"})
		}
		return api.Done{Plan: &p, Term: 2}, nil
	}
	return api.Done{Text: fmt.Sprintf("%s to=%s why=%s force=%v by=%s", o.Verb, o.To, o.Why, o.Force, o.By), Term: 1}, nil
}

func (f *fake) History(context.Context) (api.History, error) {
	return api.History{Changes: []api.Change{
		{Term: 2, Holder: "n2", Previous: "n1", At: now.Add(-5 * time.Minute), Automatic: true, Reason: "the lease of n1 ran out",
			Notes: []string{"n1 was last heard 6.2s before", "n2 is the freshest standby, 0 revisions behind"},
			Steps: []api.Step{{Name: "restored", Seconds: 0.42}, {Name: "units started", Seconds: 1.1}, {Name: "canary", Seconds: 75, Error: "no answer"}}},
		{Term: 1, Holder: "n1", At: now.Add(-51 * time.Hour), By: "root", Reason: "a running control plane was adopted"},
	}}, f.err
}

func (f *fake) Rotation(context.Context) (api.Rotation, error) {
	return api.Rotation{GossipKey: api.RotationStep{Stage: 1, Stages: 3, Behind: []string{"n3"}}, Away: []string{"n4"},
		CA: api.CARotation{RotationStep: api.RotationStep{Stage: 2, Stages: 3}, CA: "ab", Missing: []string{"n4"}, Access: []string{"laptop"}}}, f.err
}
func (f *fake) Tokens(context.Context) (api.Tokens, error) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	return api.Tokens{Tokens: []api.Token{
		{ID: "7ZK2M0QD", State: "good", Until: at.Add(24 * time.Hour), Uses: 2, Used: 1, By: "ann@n1", At: at},
		{ID: "Y4R8T1WX", State: "used up", Until: at, Uses: 1, Used: 1, Node: "n2", Replace: true, By: "root@n1", At: at.Add(-24 * time.Hour)},
	}}, f.err
}
func (f *fake) Metrics() []api.Metric       { return nil }
func (f *fake) Alive(context.Context) error { return nil }
func (f *fake) Ready(context.Context) error { return nil }

// serve puts an agent on a socket until the test ends.
func serve(t *testing.T, src api.Source) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	cfg := api.Config{Socket: path, Source: src, Log: slog.New(slog.DiscardHandler)}
	if f, ok := src.(*fake); ok && f.doctor.Findings != nil {
		cfg.Doctor = func(context.Context) (api.Doctor, error) { return f.doctor, nil }
	}
	s, err := api.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

// relevo runs one command line.
func relevo(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &app{stdout: &out, stderr: &errs, now: func() time.Time { return now }, env: func(k string) string { return env[k] }})
	return code, out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func okStatus() api.Status {
	return api.Status{
		Cluster: "home", ClusterID: "5f2a9c0b1d3e4f60718293a4b5c6d7e8", Node: "n4", Version: "0.1.0", Role: api.RoleVoter, Term: 3,
		Master:   &api.Master{Node: "n1", Term: 3, Since: now.Add(-52 * time.Hour), LeaseRemaining: ptr(4.83), APIURL: "https://10.77.0.100:6443", API: "ok"},
		Quorum:   api.Quorum{Voters: 3, Online: 3, Leader: "n4", HaveQuorum: true},
		Failover: api.Failover{Possible: true, To: "n2"},
		Standbys: []api.Standby{
			{Node: "n2", Ready: true, Revision: ptr(uint64(12345)), LagRevisions: ptr(uint64(0)), LagSeconds: ptr(0.12),
				Verified:  &api.Verification{Node: "n2", At: now.Add(-3 * time.Hour), Equal: true, Rows: 800, Revision: 12000},
				Rehearsed: &api.Rehearsal{Node: "n2", At: now.Add(-73 * time.Hour), OK: true, Depth: "control plane", ReadySeconds: 14.2}},
			{Node: "n3", Ready: true, Revision: ptr(uint64(12300)), LagRevisions: ptr(uint64(45)), LagSeconds: ptr(1.0), Never: true},
		},
		VIP:      &api.VIP{Address: "10.77.0.100/24", Holder: "n1"},
		Problems: []api.Problem{},
	}
}

func degradedStatus() api.Status {
	return api.Status{
		Cluster: "home", ClusterID: "5f2a9c0b1d3e4f60718293a4b5c6d7e8", Node: "n1", Version: "0.1.0", Role: api.RoleMaster, Term: 7,
		Master:     &api.Master{Node: "n1", Term: 7, Since: now.Add(-30 * time.Second), API: "/readyz says etcd failed"},
		Quorum:     api.Quorum{Voters: 3, Online: 1},
		Failover:   api.Failover{Why: []string{"no quorum: 1 of 3 voters is online", "no standby is ready"}},
		Standbys:   []api.Standby{{Node: "n2", Why: "not heard for 34s"}, {Node: "n3", Why: "the identity is incomplete", LagSeconds: ptr(4000.0)}},
		VIP:        &api.VIP{Address: "10.77.0.100/24", Held: true, Interface: "eth0"},
		Pause:      &api.Pause{Phase: "paused", By: "root", Why: "new switch", Since: now.Add(-3 * time.Minute)},
		Neighbours: []api.Neighbour{{Cluster: "shed\x1b", ClusterID: "0a1b2c3d4e5f", Nodes: []string{"p1", "p2"}, VIP: "192.168.1.251"}},
		Problems: []api.Problem{
			{Severity: api.Critical, What: "There is no quorum: 1 of 3 voters is online.", Why: "n2 and n3 do not answer since 34s.", Do: "Switch on n2 or n3; see `journalctl -u relevo` there."},
			{Severity: api.Warning, What: "Failover is paused."},
		},
	}
}

func judged(r health.Report) []health.Condition {
	j := health.NewJudge(health.DefaultThresholds())
	j.Observe(0, &r)
	return j.Conditions()
}

func boards() api.Health {
	pi := health.Report{
		At: now.Add(-4 * time.Second), Board: health.Board{Model: "Raspberry Pi 4 Model B Rev 1.2"},
		Boot: health.Boot{Cause: health.BootPowerOn}, CPUHertz: health.Of(6e8), CPUMaxHertz: health.Of(1.5e9), Power: health.Power{UnderVoltage: health.No, UnderVoltages: health.Of(2)},
		Drives:     []health.Drive{{Name: "mmcblk0", Kind: "SD", WriteSeconds: health.Of(0.0123), Errors: health.Of(0)}},
		Ext4:       []health.Ext4{{Device: "mmcblk0p2", Errors: health.Of(0)}},
		Links:      []health.Link{{Name: "eth0", Up: health.Yes, Speed: health.Of(1e9), CarrierChanges: health.Of(2), Errors: health.Of(0)}, {Name: "wlan0", Up: health.No, Signal: health.Of(-61)}},
		Units:      health.Units{Known: true},
		CPUPercent: health.Of(12.4), CPUs: health.Of(4), Load1: health.Of(0.5), Load5: health.Of(0.4), Load15: health.Of(0.3),
		MemoryTotal: health.Of(3.9e9), MemoryAvailable: health.Of(2.1e9), SwapTotal: health.Of(1e8), SwapUsed: health.Of(0),
		Disks: []health.Disk{{Path: "/", Total: health.Of(31e9), Free: health.Of(20e9), ReadOnly: health.Yes}}, Temperature: health.Of(51.2), Uptime: health.Of(270000),
	}
	zero := health.Report{At: now.Add(-2 * time.Second), Load1: health.Of(1.5), Unknown: []health.Unknown{{What: "temperature", Why: "this host has no temperature sensor"}}}
	return api.Health{Nodes: []api.NodeHealth{
		{Node: "n1", Report: &pi, Conditions: judged(pi), Role: api.RoleMaster, Status: "alive"},
		{Node: "n2", Report: &zero, Conditions: judged(zero), Role: api.RoleStandby, Status: "alive", LagSeconds: ptr(0.12)},
		{Node: "n3", Why: "gossip says that it is failed", Role: api.RoleVoter, Status: "failed", Gossiped: []health.Type{health.UnderVoltage}},
	}}
}

func TestRendering(t *testing.T) {
	two := okStatus()
	two.Master, two.Term, two.Standbys, two.VIP, two.Failover = nil, 0, nil, nil, api.Failover{}
	for _, c := range []struct {
		name   string
		args   []string
		status api.Status
		code   int
	}{
		{"status-ok", []string{"status"}, okStatus(), exitOK},
		{"status-degraded", []string{"status"}, degradedStatus(), exitDegraded},
		{"status-new", []string{"status"}, two, exitOK},
		{"status-removed", []string{"status"}, removedStatus(), exitDegraded},
		{"status-json", []string{"status", "-o", "json"}, degradedStatus(), exitDegraded},
		{"status-yaml", []string{"status", "-o", "yaml"}, degradedStatus(), exitDegraded},
		{"members", []string{"members"}, api.Status{}, exitOK},
		{"services", []string{"services"}, api.Status{}, exitOK},
		{"services-type", []string{"services", "--type", "https", "--node", "n2"}, api.Status{}, exitOK},
		{"services-json", []string{"services", "--type", "_https._tcp", "-o", "json"}, api.Status{}, exitOK},
		{"services-browse", []string{"services", "--browse", "--for", "0s"}, api.Status{}, exitOK},
		{"history", []string{"history"}, api.Status{}, exitOK},
		{"tokens", []string{"token", "list"}, api.Status{}, exitOK},
		{"token-create", []string{"token", "create", "--uses", "2", "--ttl", "1h"}, api.Status{}, exitOK},
		{"rotation", []string{"rotate", "status"}, api.Status{}, exitOK},
		{"health", []string{"health"}, api.Status{}, exitDegraded},
		{"top", []string{"top"}, api.Status{}, exitOK},
		{"health-n1", []string{"health", "n1"}, api.Status{}, exitDegraded},
		{"health-n2", []string{"health", "n2"}, api.Status{}, exitOK},
		{"health-n3", []string{"health", "n3"}, api.Status{}, exitDegraded},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := serve(t, &fake{status: c.status, health: boards()})
			code, out, errs := relevo(t, nil, append([]string{"--socket", socket}, c.args...)...)
			if code != c.code || errs != "" {
				t.Errorf("code %d, want %d; %s", code, c.code, errs)
			}
			if strings.ContainsAny(out, "\x1b\u202e") {
				t.Errorf("the terminal is steered: %q", out)
			}
			golden(t, c.name, out)
		})
	}
}

// YAML and JSON say the same.
func TestYAMLIsJSON(t *testing.T) {
	v := degradedStatus()
	v.Problems = append(v.Problems, api.Problem{What: "true", Why: "1.5", Do: "- a: b # <&> \"'\n\u2028 é 😀"}, api.Problem{What: "~", Why: "0x10", Do: ""})
	j, err1 := encode(formatJSON, v)
	y, err2 := encode(formatYAML, v)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	var fromJSON, fromYAML any
	if err := json.Unmarshal([]byte(j), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(y), &fromYAML); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	var again any
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, fromJSON) {
		t.Errorf("%v: YAML\n%s\nis\n%s", err, y, b)
	}
}

func TestExitCodes(t *testing.T) {
	good := filepath.Join(t.TempDir(), "relevo.yaml")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := errors.Join(os.WriteFile(good, []byte("cluster: home\nnode: n1\n"), 0o600), os.WriteFile(bad, []byte("cluster: home\nlease_ttl: 2s\nvotre: true\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none")
	sick := serve(t, &fake{err: errors.New("the store is closed")})
	well := serve(t, &fake{status: okStatus(), health: boards()})
	for _, c := range []struct {
		args   []string
		code   int
		stdout string // part of it
		stderr string
	}{
		{[]string{"version"}, exitOK, "relevo ", ""},
		{nil, exitOK, "Ask the cluster:", ""},
		{[]string{"status", "--help"}, exitOK, "Exit code 3", ""},
		{[]string{"config"}, exitOK, "check ", ""},
		{[]string{"config", "check", good}, exitOK, good + ": OK\n", ""},
		{[]string{"config", "show", good}, exitOK, "lease_ttl: 6s\n", ""},
		{[]string{"config", "check", bad}, exitError, "", "relevo: the configuration is not usable:\n" + bad + `:2:12: lease_ttl: "2s" is too short: 3s to 1m are allowed` + "\n" + bad + `:3:1: unknown key "votre": did you mean voter?` + "\n"},
		{[]string{"config", "check", none}, exitError, "", "relevo init"},
		{[]string{"agent", "--config", bad}, exitError, "", bad + ":2:12"},
		{[]string{"--socket", none, "status"}, exitError, "", "relevo: the agent is not running (nobody listens on " + none},
		{[]string{"--socket", sick, "members"}, exitError, "", "relevo: ask the agent for members: the store is closed\n"},
		{[]string{"--socket", well, "health", "n9"}, exitError, "", `no board is called "n9"; there are n1, n2, n3`},
		{[]string{"--socket", well, "status"}, exitOK, "home: OK", ""},
		{[]string{"stauts"}, exitUsage, "", "relevo: unknown command \"stauts\": did you mean status?\nSee `relevo --help`.\n"},
		{[]string{"config", "chek"}, exitUsage, "", "did you mean check?"},
		{[]string{"config", "check", "a", "b"}, exitUsage, "", "See `relevo config check --help`."},
		{[]string{"status", "n1"}, exitUsage, "", "See `relevo status --help`."},
		{[]string{"status", "-o", "xml"}, exitUsage, "", "table, json or yaml is allowed"},
		{[]string{"status", "--colour"}, exitUsage, "", "unknown flag: --colour"},
		{[]string{"health", "a", "b"}, exitUsage, "", ""},
	} {
		code, out, errs := relevo(t, nil, c.args...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) || (code == exitOK) != (errs == "") {
			t.Errorf("%q: code %d, want %d\n%s\n%s", c.args, code, c.code, out, errs)
		}
	}
	if code, _, errs := relevo(t, map[string]string{"RELEVO_SOCKET": well}, "status"); code != exitOK {
		t.Errorf("$RELEVO_SOCKET: %d %s", code, errs)
	}
}

// Colours only on a terminal that wants them.
func TestColour(t *testing.T) {
	socket := serve(t, &fake{status: degradedStatus()})
	for _, c := range []struct {
		screen *screen
		env    map[string]string
		want   bool
	}{
		{nil, nil, false},
		{&screen{}, nil, true},
		{&screen{}, map[string]string{"NO_COLOR": "1"}, false},
		{&screen{}, map[string]string{"TERM": "dumb"}, false},
	} {
		var out bytes.Buffer
		run(t.Context(), []string{"--socket", socket, "status"}, &app{stdout: &out, stderr: &out, now: func() time.Time { return now }, env: func(k string) string { return c.env[k] }, screen: c.screen})
		if got := strings.Contains(out.String(), "\x1b["); got != c.want {
			t.Errorf("%+v: coloured: %v\n%s", c, got, out.String())
		}
		if !strings.Contains(out.String(), "DEGRADED") {
			t.Errorf("got %s", out.String())
		}
	}
}

// Watching goes on when the agent is away, leaves the terminal as it was, and ends
// with the code of the last answer.
func TestWatch(t *testing.T) {
	src := &fake{status: okStatus(), asked: make(chan struct{})}
	socket := serve(t, src)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	code := make(chan int)
	go func() {
		code <- run(ctx, []string{"--socket", socket, "status", "--watch"}, &app{stdout: &out, stderr: &out, now: func() time.Time { return now },
			env: func(string) string { return "" }, screen: &screen{rows: func() int { return 0 }}})
	}()
	<-src.asked
	src.set(okStatus(), errors.New("the agent restarts"))
	<-src.asked
	src.set(degradedStatus(), nil)
	<-src.asked
	<-src.asked // so the answer before was shown
	cancel()
	if c := <-code; c != exitDegraded {
		t.Errorf("code %d", c)
	}
	text := out.String()
	at := 0
	for _, want := range []string{"\x1b[?1049h", "OK", "relevo: ask the agent for status: the agent restarts", "DEGRADED", "\x1b[?25h\x1b[?1049l", "DEGRADED"} {
		i := strings.Index(text[at:], want)
		if i < 0 {
			t.Fatalf("%q is missing, or out of order, in\n%q", want, text)
		}
		at += i
	}
	if n := strings.Count(text, "\x1b[H"); n != 1 {
		t.Errorf("all was drawn %d times, want once, and then what changed", n)
	}
}

func TestScreenCutsRows(t *testing.T) {
	var out bytes.Buffer
	s := &screen{rows: func() int { return 3 }}
	s.draw(&out, "1\n2\n3\n4\n5\n")
	if want := "\x1b[H1\x1b[K\r\n2\x1b[K\r\n(3 more lines)\x1b[K\x1b[J"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
	out.Reset()
	if s.draw(&out, "1\n2\n3\n4\n5\n"); out.Len() > 0 {
		t.Error("drew the same again")
	}
	if s.draw(&out, "1\nII\n3\n4\n5\n"); out.String() != "\x1b[2;1HII\x1b[K" {
		t.Errorf("a line that changed: %q", out.String())
	}
	out.Reset()
	if s.draw(&out, "1\n"); out.String() != "\x1b[2;1H\x1b[J" {
		t.Errorf("fewer lines: %q", out.String())
	}
}

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 420 * time.Millisecond: "0.4s", 9900 * time.Millisecond: "9.9s", 10 * time.Second: "10s", 59 * time.Second: "59s", time.Minute: "1m", 200 * time.Second: "3m 20s",
		time.Hour: "1h", 125 * time.Minute: "2h 5m", 24 * time.Hour: "1d", 99 * time.Hour: "4d 3h", -time.Minute: "-1m",
	} {
		if got := human(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for b, want := range map[float64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 3.9e9: "3.9 GB", 250e6: "250 MB", 9e18: "9000 PB"} {
		if got := size(b); got != want {
			t.Errorf("%v bytes is %q, want %q", b, got, want)
		}
	}
}

func TestLogging(t *testing.T) {
	var b bytes.Buffer
	log := newLogger(&b, slog.LevelDebug, true)
	log.With("node", "n1").Info("joined the pool", "members", 3)
	log.WithGroup("g").Warn("two\nlines", "level", "x")
	log.Error("e")
	log.Debug("d")
	want := "<6>msg=\"joined the pool\" node=n1 members=3\n<4>msg=\"two\\nlines\" g.level=x\n<3>msg=e\n<7>msg=d\n"
	if b.String() != want {
		t.Errorf("journal: got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	newLogger(&b, slog.LevelWarn, false).Info("hidden")
	newLogger(&b, slog.LevelWarn, false).Warn("shown", "k", "v")
	if s := b.String(); !strings.HasPrefix(s, "time=") || !strings.HasSuffix(s, " level=WARN msg=shown k=v\n") || strings.Contains(s, "hidden") {
		t.Errorf("plain: %s", s)
	}
}

func TestUnderJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dev, ino := identity(t, f)
	if !underJournal(fmt.Sprintf("%d:%d", dev, ino), f) {
		t.Error("the stream itself is not recognised")
	}
	if underJournal(fmt.Sprintf("%d:%d", dev, ino+1), f) || underJournal("", f) || underJournal("1:1", &bytes.Buffer{}) {
		t.Error("another stream is taken for the journal")
	}
}

func identity(t *testing.T, f *os.File) (dev, ino uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Dev, st.Ino
}
