package rehearse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/replica/files"
	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// The test binary is the control plane's programs, too: it serves the canary from the
// database that it is given, on the address that it is given.
const programEnv = "RELEVO_TEST_PROGRAM"

func TestMain(m *testing.M) {
	switch os.Getenv(programEnv) {
	case "serve":
		serve(os.Args[1], os.Args[2], os.Args[3])
	case "fail":
		fmt.Fprintln(os.Stderr, "panic: cannot read the moon")
		os.Exit(1)
	case "hang":
		select {}
	}
	os.Exit(m.Run())
}

func serve(addr, endpoint, token string) {
	path, _, _ := strings.Cut(strings.TrimPrefix(endpoint, "sqlite://"), "?")
	want, err := os.ReadFile(token)
	if err != nil {
		panic(err)
	}
	r, err := kine.OpenReader(context.Background(), path)
	if err != nil {
		panic(err)
	}
	panic(http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Token") != string(want) {
			http.Error(w, "who are you?", http.StatusForbidden)
			return
		}
		c, ok, err := r.Newest(req.Context(), CanaryKey, 1<<62)
		if err != nil || !ok {
			http.Error(w, fmt.Sprint("no canary: ", err), http.StatusInternalServerError)
			return
		}
		w.Write(c.Begin)
	})))
}

type asker API

func (a asker) WaitReady(ctx context.Context) error {
	for {
		if _, err := a.ReadCanary(ctx); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return err
		}
	}
}

func (a asker) ReadCanary(ctx context.Context) (string, error) {
	token, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Token", string(token))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(string(b))
	}
	return string(b), err
}

// world is a standby: a complete copy, a mirrored identity, and a control plane.
type world struct {
	*testing.T
	cfg    Config
	before string // the copy
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "replica"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := kinetest.New(t, filepath.Join(dir, "replica", "state.db"), false)
	w.Random(rand.New(rand.NewPCG(1, 2)), 300)
	w.Put(CanaryKey, "written: n1 term 3 at some time")
	w.Exec(`CREATE TABLE relevo (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`)
	w.Exec(`INSERT INTO relevo VALUES('cluster','home'),('term','3'),('complete','yes')`)
	pki := filepath.Join(dir, "etc", "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pki, "token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	mirror := filepath.Join(dir, "replica", "identity")
	if err := mirrored(t, mirror, pki); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(pki); err != nil { // it is the master's: not there on a standby
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	return &world{t, Config{
		Dir: filepath.Join(dir, "rehearsal"), Copy: w.Path, Datastore: "/var/lib/kine/state.db", Mirror: mirror, Identity: []string{pki}, Term: 3,
		Programs: []Program{{Argv: []string{os.Args[0], addr, "sqlite:///var/lib/kine/state.db?_journal=WAL", pki + "/token"}, Env: []string{programEnv + "=serve"}}},
		API:      API{URL: "http://" + addr, TokenFile: pki + "/token"}, Memory: 1 << 20, Available: func() (int64, error) { return 1 << 30, nil },
		Start: 20 * time.Second,
		Sandbox: func(ctx context.Context, path string) error {
			s, err := ReadSpec(path)
			if err != nil {
				return err
			}
			return Inside(ctx, s, asker(s.API))
		},
	}, kinetest.Dump(t, w.Path)}
}

func mirrored(t *testing.T, mirror, root string) error {
	m := files.NewMirror(mirror, files.Spec{Roots: []string{root}})
	s := files.NewScanner(files.Spec{Roots: []string{root}}, time.Second)
	return m.Update(t.Context(), func(_ context.Context, e *files.Entry) (io.ReadCloser, error) {
		if e != nil {
			return os.Open(e.Path)
		}
		man, err := s.Manifest()
		if err != nil {
			return nil, err
		}
		return manifestBody(man)
	})
}

func (w *world) rehearse() Report {
	w.Helper()
	r := Rehearse(w.Context(), w.cfg)
	if _, err := os.Stat(w.cfg.Dir); !errors.Is(err, os.ErrNotExist) {
		w.Errorf("the scratch folder is still there: %v", err)
	}
	if after := kinetest.Dump(w.T, w.cfg.Copy); after != w.before {
		w.Errorf("the copy was changed:\n%s", kinetest.Diff(after, w.before))
	}
	return r
}

func TestRehearse(t *testing.T) {
	r := newWorld(t).rehearse()
	if r.Err != nil || r.Depth != ControlPlane || r.Shallow != "" || r.Ready <= 0 || len(r.Steps) != 6 {
		t.Fatalf("%+v", r)
	}
}

// TestShallow: where the control plane cannot be started the database is rehearsed, and
// the reason said.
func TestShallow(t *testing.T) {
	for _, tt := range []struct {
		name, why string
		change    func(c *Config)
	}{
		{"no programs", "not known", func(c *Config) { c.Programs = nil }},
		{"another datastore", "names the datastore", func(c *Config) { c.Datastore = "/var/lib/kine/state.d" }},
		{"little memory", "16 MiB of memory are available", func(c *Config) { c.Memory = 32 << 20; c.Available = func() (int64, error) { return 16 << 20, nil } }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.change(&w.cfg)
			r := w.rehearse()
			if r.Err != nil || r.Depth != Database || !strings.Contains(r.Shallow, tt.why) {
				t.Fatalf("%+v", r)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(w *world)
	}{
		{"a damaged copy", "integrity", func(w *world) {
			w.exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
			b, err := os.ReadFile(w.cfg.Copy)
			if err != nil {
				w.Fatal(err)
			}
			for i := range 64 { // in the middle of some page
				b[len(b)/4096/2*4096+i] ^= 0x5a
			}
			if err := os.WriteFile(w.cfg.Copy, b, 0o600); err != nil {
				w.Fatal(err)
			}
		}},
		{"no copy", "restore", func(w *world) { w.cfg.Copy += ".none" }},
		{"an incomplete copy", "never came to its end", func(w *world) { w.exec(`UPDATE relevo SET value='no' WHERE key='complete'`) }},
		{"a canary that is none", "no promotion's", func(w *world) { w.exec(`UPDATE kine SET value='moon' WHERE name='` + CanaryKey + `'`) }},
		{"a damaged identity", "identity", func(w *world) {
			blobs, _ := filepath.Glob(filepath.Join(w.cfg.Mirror, "blobs", "*"))
			if err := os.WriteFile(blobs[0], []byte("x"), 0o600); err != nil {
				w.Fatal(err)
			}
		}},
		{"a program that ends", "cannot read the moon", func(w *world) { w.cfg.Programs[0].Env[0] = programEnv + "=fail" }},
		{"a program that is not there", "start none", func(w *world) { w.cfg.Programs[0].Argv[0] = "/usr/bin/none" }},
		{"a program that does not get ready", "not ready within", func(w *world) {
			w.cfg.Programs[0].Env[0] = programEnv + "=hang"
			w.cfg.Start = 100 * time.Millisecond
		}},
		{"a sandbox that dies", "killed", func(w *world) { w.cfg.Sandbox = func(context.Context, string) error { return errors.New("killed") } }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.change(w)
			r := Rehearse(t.Context(), w.cfg)
			if r.Err == nil || !strings.Contains(r.Err.Error(), tt.want) {
				t.Fatalf("%+v", r)
			}
			if _, err := os.Stat(w.cfg.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the scratch folder is still there: %v", err)
			}
		})
	}
}

func (w *world) exec(q string) {
	db := kinetest.New(w, w.cfg.Copy, false)
	db.Exec(q)
	db.DB.Close()
}

// TestCutOff: a promotion is due in the middle of it.
func TestCutOff(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.cfg.Sandbox = func(ctx context.Context, _ string) error {
		cancel(errors.New("this host is promoting"))
		<-ctx.Done()
		return ctx.Err()
	}
	r := Rehearse(ctx, w.cfg)
	if r.Err == nil || !strings.Contains(r.Err.Error(), "this host is promoting") {
		t.Fatalf("%+v", r)
	}
}

func TestReaim(t *testing.T) {
	pairs := []string{"/var/lib/kine/state.db", "/s/state.db", "/etc/pki", "/s/id/etc/pki"}
	for _, tt := range []struct{ in, want string }{
		{"/var/lib/kine/state.db", "/s/state.db"},
		{"sqlite:///var/lib/kine/state.db?_journal=WAL&cache=shared", "sqlite:///s/state.db?_journal=WAL&cache=shared"},
		{"--endpoint=sqlite:///var/lib/kine/state.db", "--endpoint=sqlite:///s/state.db"},
		{"/var/lib/kine/state.db.bak", "/var/lib/kine/state.db.bak"},
		{"/srv/var/lib/kine/state.db", "/srv/var/lib/kine/state.db"},
		{"--tls-cert-file=/etc/pki/api.crt,/etc/pki/api.key", "--tls-cert-file=/s/id/etc/pki/api.crt,/s/id/etc/pki/api.key"},
		{"/etc/pki2/x", "/etc/pki2/x"},
		{"", ""},
	} {
		if got := reaim(tt.in, pairs); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.in, got, tt.want)
		}
	}
}
