package rehearse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"relevo.dev/relevo/agent/replica/files"
	"relevo.dev/relevo/agent/replica/kine"
)

// Depth is how much was rehearsed.
type Depth string

// The depths.
const (
	Database     Depth = "database"      // restored, checked, jumped ahead, canary read from it
	ControlPlane Depth = "control plane" // and the programs started on it, ready, canary read from the API
)

// CanaryKey is where the canary of a promotion lies in the datastore.
const CanaryKey = "/registry/configmaps/kube-system/relevo-canary"

// Config is one rehearsal.
type Config struct {
	Dir       string // scratch folder; it is emptied before and removed after
	Copy      string // the standby's copy
	Datastore string // where the control plane has its database
	Mirror    string // mirrored identity, and its roots
	Identity  []string
	Term      uint64 // the newest; the rehearsal is for the next
	// Programs of the control plane in the order they start. Empty: the database alone.
	Programs []Program
	API      API
	// Memory that the programs may have, in bytes; with less available only the database
	// is rehearsed.
	Memory    int64
	Available func() (int64, error)
	// Sandbox runs Inside on the spec file, walled in, until its end.
	Sandbox func(ctx context.Context, spec string) error
	// Start bounds the start of the programs.
	Start time.Duration
}

// Program is a command line, the program's path first.
type Program struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
}

// API says how the control plane is asked. Files may be of the identity.
type API struct {
	URL            string `json:"url"`
	CAFile         string `json:"ca_file,omitempty"`
	TokenFile      string `json:"token_file,omitempty"`
	ClientCertFile string `json:"client_cert_file,omitempty"`
	ClientKeyFile  string `json:"client_key_file,omitempty"`
	// VIP is an address that must be there; "" = none.
	VIP string `json:"vip,omitempty"`
}

// Report is what came of it.
type Report struct {
	Depth Depth
	Steps []Step
	// Ready is how long a promotion would have taken from the copy to the canary; without
	// the entire check, which a promotion does not wait for.
	Ready time.Duration
	// Shallow is why the programs were not started, "" if they were.
	Shallow string
	Err     error
}

// Step is a part of it.
type Step struct {
	Name string
	Took time.Duration
}

const integrity = "integrity" // the step that a promotion does not do

// Rehearse does it. It always ends with the scratch folder gone; the sandbox ends with
// ctx.
func Rehearse(ctx context.Context, c Config) Report {
	r := Report{Depth: Database}
	if err := Clean(c.Dir); err != nil {
		r.Err = err
		return r
	}
	run := run{Config: c, report: &r, db: filepath.Join(c.Dir, "state.db"), id: filepath.Join(c.Dir, "identity")}
	err := run.steps(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	r.Err = errors.Join(err, Clean(c.Dir))
	for _, s := range r.Steps {
		if s.Name != integrity {
			r.Ready += s.Took
		}
	}
	return r
}

// Clean removes what a rehearsal left behind that was cut off.
func Clean(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove what a rehearsal left: %w", err)
	}
	return nil
}

type run struct {
	Config
	report *Report
	db, id string
}

func (r *run) step(name string, f func() error) error {
	begin := time.Now()
	err := f()
	r.report.Steps = append(r.report.Steps, Step{name, time.Since(begin)})
	if err != nil {
		return fmt.Errorf("rehearsal: %s: %w", name, err)
	}
	return nil
}

func (r *run) steps(ctx context.Context) error {
	var head int64
	for _, s := range []struct {
		name string
		f    func() error
	}{
		{"restore", func() error { return r.restore(ctx) }},
		{integrity, func() error {
			info, err := kine.Verify(ctx, r.db, true)
			if err == nil && !info.Notes.Complete {
				err = errors.New("the first copy from a master never came to its end")
			}
			head = info.MaxID
			return err
		}},
		{"identity", func() error {
			if len(r.Identity) == 0 {
				return nil
			}
			return files.LayOut(r.Mirror, r.Identity, r.id)
		}},
		{"bump", func() error {
			b, err := kine.Bump(ctx, r.db, r.Term+1, kine.Gap)
			if err == nil && b.To <= head {
				err = fmt.Errorf("it went from revision %d to %d", head, b.To)
			}
			return err
		}},
		{"canary row", func() error { return canaryRow(ctx, r.db) }},
	} {
		if err := r.step(s.name, s.f); err != nil {
			return err
		}
	}
	programs, why := r.programs()
	if why != "" {
		r.report.Shallow = why
		return nil
	}
	return r.step("control plane", func() error {
		r.report.Depth = ControlPlane
		return r.inside(ctx, programs)
	})
}

// restore copies the copy; room for it must be there twice: SQLite's own work takes some.
func (r *run) restore(ctx context.Context) error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(r.Copy)
	if err != nil {
		return err
	}
	if err := kine.Room(r.Dir, 2*st.Size()+16<<20); err != nil {
		return err
	}
	return kine.Snapshot(ctx, r.Copy, r.db)
}

// canaryRow reads what the last promotion wrote; a cluster without one has at least some
// object that lives.
func canaryRow(ctx context.Context, path string) error {
	db, err := kine.OpenReader(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	c, ok, err := db.Newest(ctx, CanaryKey, 1<<62)
	if err != nil {
		return err
	}
	if ok && !c.Deleted {
		value, err := db.Value(ctx, c.Revision)
		if err == nil && !strings.Contains(string(value), "term ") {
			err = fmt.Errorf("the canary at revision %d is %d bytes, and no promotion's", c.Revision, len(value))
		}
		return err
	}
	for after, done := int64(0), false; !done; {
		var list []kine.Change
		if list, after, done, err = db.Changes(ctx, after); err != nil {
			return err
		}
		for _, c := range list {
			if !c.Deleted {
				return nil
			}
		}
	}
	return errors.New("there is no object in it")
}

// programs re-aims the programs, or says why they are not started.
func (r *run) programs() ([]Program, string) {
	if len(r.Programs) == 0 || r.Sandbox == nil {
		return nil, "which programs the control plane has is not known"
	}
	aim := []string{r.Datastore, r.db}
	for _, root := range r.Identity {
		aim = append(aim, root, r.id+root)
	}
	var out []Program
	found := false
	for _, p := range r.Programs {
		q := Program{Argv: []string{p.Argv[0]}}
		for _, a := range p.Argv[1:] {
			found = found || mentions(a, r.Datastore)
			q.Argv = append(q.Argv, reaim(a, aim))
		}
		for _, e := range p.Env {
			q.Env = append(q.Env, reaim(e, aim))
		}
		out = append(out, q)
	}
	if !found {
		return nil, "no command line of the control plane names the datastore " + r.Datastore + ", so it cannot be started on another"
	}
	free, err := r.Available()
	switch {
	case err != nil:
		return nil, "how much memory is available is not known: " + err.Error()
	case free < r.Memory:
		return nil, fmt.Sprintf("%d MiB of memory are available, and the control plane may need %d", free>>20, r.Memory>>20)
	}
	return out, ""
}

// mentions says whether a path, and not only the beginning of a longer name, is in s.
func mentions(s, path string) bool { return reaim(s, []string{path, "\x00"}) != s }

// reaim replaces paths (old, new, old, new …) wherever they stand whole: at their end is
// a slash, a character that ends a path in a command line, or nothing.
func reaim(s string, pairs []string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		hit := false
		for j := 0; j+1 < len(pairs) && !hit; j += 2 {
			rest, ok := strings.CutPrefix(s[i:], pairs[j])
			startsPath := i == 0 || !strings.ContainsRune(pathRunes, rune(s[i-1])) || strings.HasSuffix(s[:i], "//")
			if hit = ok && startsPath && (rest == "" || rest[0] == '/' || !strings.ContainsRune(pathRunes, rune(rest[0]))); hit {
				b.WriteString(pairs[j+1])
				i += len(pairs[j])
			}
		}
		if !hit {
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String()
}

const pathRunes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/"

// inside runs the programs in the sandbox.
func (r *run) inside(ctx context.Context, programs []Program) error {
	aim := []string{}
	for _, root := range r.Identity {
		aim = append(aim, root, r.id+root)
	}
	api := r.API
	for _, f := range []*string{&api.CAFile, &api.TokenFile, &api.ClientCertFile, &api.ClientKeyFile} {
		*f = reaim(*f, aim)
	}
	spec := Spec{Programs: programs, API: api, Limit: r.Start, Result: filepath.Join(r.Dir, "result.json")}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	path := filepath.Join(r.Dir, "spec.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	runErr := r.Sandbox(ctx, path)
	out, err := ReadOutcome(spec.Result)
	switch {
	case err == nil && out.Error != "":
		return errors.New(out.Error)
	case runErr != nil:
		return runErr
	}
	return err
}
