package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Program is one that the control plane's units run.
type Program struct {
	Name    string `json:"name"` // of its file: k3s, kube-apiserver, kine
	Path    string `json:"path"`
	Version string `json:"version,omitempty"` // as it says itself; "" = not known
}

// asked are the programs that are asked for their version, and what the answer to
// --version begins with. Others are not run: nobody knows what they would do.
var asked = map[string]string{"k3s": "k3s version ", "kube-apiserver": "Kubernetes ", "kine": "kine version "}

var versionOf = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^v\d+\.\d+\.\d+[-+.\w]*`) })

// versionLimit is how long a program may take to say its version: k3s may unpack itself
// first, onto an SD card.
const versionLimit = time.Minute

// versions asks programs, each once as long as its file stays the same.
type versions struct {
	run func(ctx context.Context, path string) ([]byte, error) // nil = the program itself

	mu    sync.Mutex
	known map[string]answer
}

type answer struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
	version      string
	err          error
}

// of looks at a program. An error says why it cannot run here at all; a program that
// runs and does not tell has the version "".
func (v *versions) of(ctx context.Context, path string) (Program, error) {
	p := Program{Name: filepath.Base(path), Path: path}
	st, err := os.Stat(path)
	if err != nil {
		return p, errors.New("the program " + path + " is not there")
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 || !ok {
		return p, fmt.Errorf("%s is no program (%v)", path, st.Mode())
	}
	begins, is := asked[p.Name]
	if !is {
		return p, nil
	}
	now := answer{dev: uint64(sys.Dev), ino: sys.Ino, size: st.Size(), mtime: sys.Mtim.Nano(), ctime: sys.Ctim.Nano()}
	v.mu.Lock()
	was := v.known[path]
	v.mu.Unlock()
	p.Version = was.version
	if now.dev == was.dev && now.ino == was.ino && now.size == was.size && now.mtime == was.mtime && now.ctime == was.ctime {
		return p, was.err
	}
	now.version, now.err = v.ask(ctx, path, begins)
	if p.Version = now.version; ctx.Err() != nil {
		return p, now.err // our own end is no answer
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil {
		v.known = map[string]answer{}
	}
	v.known[path] = now
	return p, now.err
}

func (v *versions) ask(ctx context.Context, path, begins string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	run := v.run
	if run == nil {
		run = runVersion
	}
	out, err := run(ctx, path)
	if err != nil {
		return "", fmt.Errorf("`%s --version` fails: %w", path, err)
	}
	if says, is := strings.CutPrefix(string(out), begins); is {
		version := versionOf().FindString(says)
		if _, ok := parseVersion(version); ok {
			return version, nil
		}
	}
	return "", nil // one of somebody's own making
}

func runVersion(ctx context.Context, path string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"}
	var out limited
	cmd.Stdout = &out
	err := cmd.Run()
	return out.text, err
}

// limited keeps the beginning of what is written to it.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(len(p), 4096-len(l.text))]...)
	return len(p), nil
}

// release is the part of a version that compatibility goes by.
type release struct{ major, minor int }

var releaseOf = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^v(\d{1,4})\.(\d{1,4})\.`) })

// parseVersion reads v1.34.1+k3s1; v0.0.0, as an unmarked build says, is none.
func parseVersion(s string) (r release, ok bool) {
	m := releaseOf().FindStringSubmatch(s)
	if m == nil {
		return r, false
	}
	r.major, _ = strconv.Atoi(m[1])
	r.minor, _ = strconv.Atoi(m[2])
	return r, r != release{}
}

// ProgramsAnd tells the versions of this host's programs, and those of another one where they
// differ: "kine v0.17.5 on both, kube-apiserver v1.37.1 here and v1.37.2 on n1".
func (f Facts) ProgramsAnd(node string, theirs Facts) string {
	name := func(v string) string {
		if _, known := parseVersion(v); !known {
			return "of an unknown version"
		}
		return v
	}
	var out []string
	for _, p := range f.Programs {
		if v := theirs.version(p.Name); v != p.Version {
			out = append(out, fmt.Sprintf("%s %s here and %s on %s", p.Name, name(p.Version), name(v), node))
		} else {
			out = append(out, p.Name+" "+name(p.Version)+" on both")
		}
	}
	return strings.Join(out, ", ")
}

// Skew compares this host's programs with those of the master, whose API server runs as
// master.Running. The rules are those of Kubernetes' version skew policy, which knows of
// no downgrade of an API server and of no upgrade that skips a minor version; and k3s's
// kine changed its schema between minor versions (k3s #13650). Patch releases are alike.
func Skew(own, master Facts) []Finding {
	var out []Finding
	for _, p := range own.Programs {
		theirs := master.Running
		if _, ok := parseVersion(theirs); !ok || p.Name == "kine" {
			theirs = master.version(p.Name)
		}
		a, ok := parseVersion(p.Version)
		b, known := parseVersion(theirs)
		if !ok || !known || master.version(p.Name) == "" {
			continue
		}
		here := fmt.Sprintf("%s %s here, %s on the master", p.Name, p.Version, theirs)
		switch {
		case a == b:
		case a.major != b.major || a.minor < b.minor:
			out = append(out, Finding{Blocks: true, What: here + ": an older one must not take over a newer one's data", Do: "upgrade here first"})
		case p.Name == "kine": // reads what older ones wrote
		case a.minor > b.minor+1:
			out = append(out, Finding{Blocks: true, What: here + ": an upgrade must not skip a minor version", Do: "bring them within one minor version of each other"})
		default:
			out = append(out, Finding{What: here + ": a failover to this host is an upgrade, and the master of now could not take it back", Do: "finish the upgrade on the other hosts: the master last, after a switchover"})
		}
	}
	return out
}
