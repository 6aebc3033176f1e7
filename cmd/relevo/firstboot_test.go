package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirstboot: what lies on a new card is taken in, the secret goes from the card and
// never into a log, and a token that cannot be used yet stays.
func TestFirstboot(t *testing.T) {
	const token = "1K3Q9ZXW-ABCDEFGH-SECRETXX"
	for name, c := range map[string]struct {
		files   map[string]string
		fails   error
		joined  string // what was joined with
		stays   bool
		log     string
		config  bool
		started bool
		err     string
	}{
		"nothing":         {map[string]string{}, nil, "", false, "", false, false, ""},
		"a token":         {map[string]string{bootJoin: "\xef\xbb\xbf# from the kitchen\r\n\r\n" + token + "\r\n"}, nil, token, false, "joined;", false, true, ""},
		"nobody answers":  {map[string]string{bootJoin: token}, errors.New("no member of the cluster of " + token + " was found"), token, true, "not joined: no member", false, false, "no member"},
		"only comments":   {map[string]string{bootJoin: "# here\n"}, nil, "", true, "holds no token", false, false, "holds no token"},
		"too long":        {map[string]string{bootJoin: strings.Repeat("x", maxBootFile+1)}, nil, "", true, "no file of at most", false, false, "no file"},
		"a configuration": {map[string]string{bootConfig: "cluster: home\r\nnode: n2\r\n"}, nil, "", false, "is the configuration now", true, false, ""},
		"both":            {map[string]string{bootConfig: "cluster: home\nnode: n2\n", bootJoin: token}, nil, token, false, "joined;", true, true, ""},
		"a bad one":       {map[string]string{bootConfig: "cluster: My Home\n", bootJoin: token}, nil, "", true, "not usable", false, false, "not usable"},
		"one is there":    {map[string]string{bootConfig: "cluster: home\nnode: n2\n", "../etc/relevo.yaml": "cluster: old\n"}, nil, "", false, "there is", false, false, "already"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			boot, etc := filepath.Join(dir, "boot"), filepath.Join(dir, "etc")
			for _, d := range []string{boot, etc} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for f, text := range c.files {
				if err := os.WriteFile(filepath.Join(boot, f), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var journal bytes.Buffer
			joined, started := "", false
			f := firstboot{dirs: []string{filepath.Join(dir, "none"), boot}, place: trustFlags{config: filepath.Join(etc, "relevo.yaml")}, out: &journal, now: func() time.Time { return now },
				join: func(_ context.Context, out io.Writer, text string) error {
					joined = text
					return c.fails
				},
				start: func(context.Context) error { started = true; return nil },
			}
			err := f.run(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v", err)
			}
			log, _ := os.ReadFile(filepath.Join(boot, bootLog))
			if !strings.Contains(string(log), c.log) || (c.log == "") != (len(log) == 0) {
				t.Errorf("the log says %q", log)
			}
			if strings.Contains(string(log)+journal.String()+errText(err), token) {
				t.Errorf("the token is told: %q %q %v", log, &journal, err)
			}
			_, serr := os.Stat(filepath.Join(boot, bootJoin))
			if joined != c.joined || started != c.started || (serr == nil) != c.stays {
				t.Errorf("joined with %q, started %v, %v", joined, started, serr)
			}
			b, _ := os.ReadFile(filepath.Join(etc, "relevo.yaml"))
			if strings.Contains(string(b), "cluster: home\nnode: n2") != c.config {
				t.Errorf("the configuration is %q", b)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestErase: the bytes of the secret are gone before its name is.
func TestErase(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "x"), filepath.Join(dir, "y")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, other); err != nil { // keeps the content to be looked at
		t.Fatal(err)
	}
	if err := erase(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(other); err != nil || string(b) != "######" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
}
