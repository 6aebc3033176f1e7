package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake is a Source with fixed answers.
type fake struct {
	status  Status
	err     error // of the questions
	sick    error // of Alive and Ready
	metrics []Metric
	asked   func(context.Context)
}

func (f *fake) Status(ctx context.Context) (Status, error) {
	if f.asked != nil {
		f.asked(ctx)
	}
	return f.status, f.err
}
func (f *fake) Members(context.Context) (Members, error) {
	return Members{Members: []Member{{Node: "n1", Role: RoleMaster}}}, f.err
}
func (f *fake) Browse(ctx context.Context) (Services, error) { return f.Services(ctx) }

func (f *fake) Services(context.Context) (Services, error) {
	return Services{Services: []Service{{Name: "x"}}}, f.err
}
func (f *fake) Health(context.Context) (Health, error) {
	return Health{Nodes: []NodeHealth{{Node: "n1"}}}, f.err
}
func (f *fake) Explain(_ context.Context, term uint64) (Explanation, error) {
	if term == 99 {
		return Explanation{}, errors.New("term 99 is not in the history")
	}
	wait := 4.2
	return Explanation{Term: 2, Arbiter: "n3", Possible: true, To: "n2", Wait: wait, Notes: []string{"n2: ready, revision 7, lag 0s"},
		Change: &Change{Term: 2, Holder: "n1", Reason: "first master"}, Views: []View{{Node: "n1", Term: 2, Phase: "master", Arbiter: "n3", LeaseRemaining: &wait}}}, nil
}

func (f *fake) Do(_ context.Context, o Order) (Done, error) {
	if o.Why == "refuse" {
		return Done{}, errors.New("nobody is ready to take over")
	}
	return Done{Text: fmt.Sprintf("%s to=%s why=%s force=%v by=%s", o.Verb, o.To, o.Why, o.Force, o.By), Term: 1}, nil
}

func (f *fake) History(context.Context) (History, error) {
	return History{Changes: []Change{{Term: 3}}}, f.err
}
func (f *fake) Rotation(context.Context) (Rotation, error) { return Rotation{}, f.sick }
func (f *fake) Tokens(context.Context) (Tokens, error)     { return Tokens{}, f.sick }
func (f *fake) Metrics() []Metric                          { return f.metrics }
func (f *fake) Alive(context.Context) error                { return f.sick }
func (f *fake) Ready(context.Context) error                { return f.sick }

// start runs a server until the test ends, and waits for its end.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// shortDir is a directory whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	d, err := os.MkdirTemp("", "rv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func TestSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "run", "relevo.sock")
	remaining := 4.5
	src := &fake{status: Status{Cluster: "home", Term: 3, Master: &Master{Node: "n1", LeaseRemaining: &remaining}}}
	var caller Caller
	src.asked = func(ctx context.Context) { caller, _ = CallerOf(ctx) }
	start(t, Config{Socket: path, Group: "no such group", Source: src})

	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v", fi.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first name of the socket is still there: %v", err)
	}
	c := NewClient(path)
	defer c.Close()
	st, err := c.Status(t.Context())
	if err != nil || st.Cluster != "home" || st.Master == nil || *st.Master.LeaseRemaining != 4.5 || st.Degraded() {
		t.Errorf("status: %+v, %v", st, err)
	}
	if want := (Caller{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}); caller.PID != want.PID || caller.UID != want.UID || caller.GID != want.GID {
		t.Errorf("the caller is %+v, want %+v", caller, want)
	}
	if v, err := c.Members(t.Context()); err != nil || v.Members[0].Role != RoleMaster {
		t.Errorf("members: %+v, %v", v, err)
	}
	if v, err := c.Services(t.Context()); err != nil || v.Services[0].Name != "x" {
		t.Errorf("services: %+v, %v", v, err)
	}
	if v, err := c.Health(t.Context()); err != nil || v.Nodes[0].Report != nil {
		t.Errorf("health: %+v, %v", v, err)
	}
	if v, err := c.History(t.Context()); err != nil || v.Changes[0].Term != 3 {
		t.Errorf("history: %+v, %v", v, err)
	}
	if v, err := get[map[string]any](t.Context(), c, "status"); err != nil || fmt.Sprint(v["problems"], v["standbys"], v["vip"]) != "[] [] <nil>" {
		t.Errorf("lists of none are %v, %v; vip is %v; %v", v["problems"], v["standbys"], v["vip"], err)
	}
	src.status.Problems = []Problem{{What: strings.Repeat("<", 4<<20)}} // as six characters it would be too long to be read
	if st, err := c.Status(t.Context()); err != nil || len(st.Problems) != 1 || len(st.Problems[0].What) != 4<<20 {
		t.Errorf("a long status: %v", err)
	}
	if _, err := get[Status](t.Context(), c, "nothing"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown question: %v", err)
	}
	src.err = errors.New("no quorum store")
	if _, err := c.Members(t.Context()); err == nil || err.Error() != "ask the agent for members: no quorum store" {
		t.Errorf("the source's error: %v", err)
	}
	if _, err := Listen(Config{Socket: path}); err == nil || !strings.Contains(err.Error(), "another agent is running") {
		t.Errorf("a second agent: %v", err)
	}
}

func TestSocketAfterCrash(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close() // the name stays, as after a kill
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a socket without a listener: %v", err)
	}
	s, err := Listen(Config{Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket's name is left: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Socket: path}); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("a file in the way was removed")
	}
}

func TestClientExplains(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "none"))
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "systemctl start relevo") {
		t.Errorf("no socket: %v", err)
	}
	if err := c.explain("status", &net.OpError{Op: "dial", Err: fs.ErrPermission}); !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), "group") {
		t.Errorf("no permission: %v", err)
	}
	if err := c.explain("status", os.ErrDeadlineExceeded); !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("timeout: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// fetch asks over TCP with a Host of its own.
func fetch(t *testing.T, addr net.Addr, path string, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr.String()+path, nil)
	if change != nil {
		change(req)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), resp.Header
}

// tcpAddr waits until the server listens.
func tcpAddr(t *testing.T, s *Server) net.Addr {
	t.Helper()
	for t.Context().Err() == nil {
		if a := s.Addr(); a != nil {
			return a
		}
		if err := s.TCPErr(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("no listener")
	return nil
}

func TestTCP(t *testing.T) {
	src := &fake{metrics: []Metric{One("relevo_term", "Newest term.", Gauge, 3)}}
	s := start(t, Config{Listen: "127.0.0.1:0", Node: "n1", Source: src})
	addr := tcpAddr(t, s)
	if code, body, h := fetch(t, addr, "/metrics", nil); code != 200 || !strings.Contains(body, "\nrelevo_term 3\n") ||
		!strings.Contains(body, "process_resident_memory_bytes ") || h.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("metrics: %d %v\n%s", code, h, body)
	}
	for _, c := range []struct {
		name, path string
		change     func(*http.Request)
		want       int
	}{
		{"alive", "/healthz", nil, 200},
		{"ready", "/readyz", nil, 200},
		{"own name", "/healthz", func(r *http.Request) { r.Host = "n1:7948" }, 200},
		{"own name on the LAN", "/healthz", func(r *http.Request) { r.Host = "N1.local" }, 200},
		{"localhost", "/healthz", func(r *http.Request) { r.Host = "localhost:7948" }, 200},
		{"IPv6", "/healthz", func(r *http.Request) { r.Host = "[fe80::1]:7948" }, 200},
		{"rebinding", "/healthz", func(r *http.Request) { r.Host = "evil.example" }, 403},
		{"rebinding with port", "/metrics", func(r *http.Request) { r.Host = "evil.example:7948" }, 403},
		{"foreign page", "/metrics", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"post", "/metrics", func(r *http.Request) { r.Method = "POST" }, 405},
		{"body", "/metrics", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 }, 413},
		{"status is for the socket", "/v1/status", nil, 404},
		{"header", "/healthz", func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 3*maxHeader)) }, 431},
	} {
		if code, body, _ := fetch(t, addr, c.path, c.change); code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, code, body, c.want)
		}
	}
	src.sick = errors.New("the loop stands still")
	for _, p := range []string{"/healthz", "/readyz"} {
		if code, body, _ := fetch(t, addr, p, nil); code != 503 || body != "the loop stands still\n" {
			t.Errorf("%s: %d %q", p, code, body)
		}
	}
}

// Connections beyond the limit are closed at once, and their places come free.
func TestTCPLimit(t *testing.T) {
	s := start(t, Config{Listen: "127.0.0.1:0", Source: &fake{}})
	addr := tcpAddr(t, s)
	var idle []net.Conn
	for range maxTCPConns {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(4 * time.Second)) // below the server's own limit for silent ones
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v", err)
	}
	for _, c := range idle {
		c.Close()
	}
	for {
		if code, _, _ := fetch(t, addr, "/healthz", nil); code == 200 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("no place came free")
		}
	}
}

// A port that is taken does not stop the agent, and is told.
func TestTCPTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := filepath.Join(shortDir(t), "s")
	s := start(t, Config{Socket: path, Listen: l.Addr().String(), Source: &fake{}})
	for s.TCPErr() == nil {
		if t.Context().Err() != nil {
			t.Fatal("no error")
		}
	}
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the socket does not work: %v", err)
	}
}
