package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type file struct {
	name string
	mode os.FileMode
	text string
}

func folder(t *testing.T, files ...file) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hooks.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runner(dir string, run Program) *Runner {
	return New(Config{Dir: dir, Run: run, Owner: os.Getuid(), Cluster: "home", Host: "n1", Log: slog.New(slog.DiscardHandler)})
}

// started runs r until the test ends.
func started(t *testing.T, r *Runner) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func condition(node, name, status string) Event {
	return Event{Event: Condition, Node: node, Condition: name, Status: status}
}

// What a hook gets, with a real program.
func TestFacts(t *testing.T) {
	out := make(chan []byte, 1)
	dir := folder(t, file{"50-note", 0o755, "#!/bin/sh\nenv | sort; cat\n"})
	r := runner(dir, func(ctx context.Context, path string, env []string, stdin []byte, _ time.Duration) error {
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Stdin = env, bytes.NewReader(stdin)
		text, err := cmd.Output()
		if err != nil {
			return err
		}
		out <- text
		return nil
	})
	r.Post(Event{Event: Condition, At: time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC), Node: "n3", Subject: "n3: too hot", Condition: "Hot", Status: "true", Reason: "TooHot",
		Message: "two\nlines\x00and \xff" + strings.Repeat("é", 600), Advice: "give it air", Term: 7})
	started(t, r)
	text := <-out
	env, input, _ := strings.Cut(string(text), "{")
	for _, want := range []string{"RELEVO_EVENT=condition\n", "RELEVO_TIME=2026-11-25T01:02:03Z\n", "RELEVO_CLUSTER=home\n", "RELEVO_HOST=n1\n", "RELEVO_NODE=n3\n", "RELEVO_SUBJECT=n3: too hot\n",
		"RELEVO_CONDITION=Hot\n", "RELEVO_STATUS=true\n", "RELEVO_REASON=TooHot\n", "RELEVO_MESSAGE=two lines and ?éé", "RELEVO_ADVICE=give it air\n", "RELEVO_ROLE=\n", "RELEVO_TERM=7\n", "RELEVO_SKIPPED=0\n", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("the environment lacks %q:\n%s", want, env)
		}
	}
	for line := range strings.Lines(env) {
		if len(line) > maxText+40 {
			t.Errorf("%d bytes in one variable", len(line))
		}
	}
	var e Event
	if err := json.Unmarshal([]byte("{"+input), &e); err != nil || e.Node != "n3" || e.Condition != "Hot" || e.Term != 7 || e.Host != "n1" {
		t.Errorf("%v: %+v", err, e)
	}
}

// What may not be run is not, and is told by name.
func TestWhoMayWriteIt(t *testing.T) {
	var files []file
	for i := range maxHooks {
		files = append(files, file{fmt.Sprintf("10-fine.%d", i), 0o700, ""})
	}
	files = append(files, file{"20-one-too-many", 0o755, ""}, file{"group", 0o775, ""}, file{"world", 0o757, ""}, file{"off", 0o644, ""}, file{"off-world", 0o666, ""},
		file{"edited~", 0o755, ""}, file{".hidden", 0o755, ""}, file{"old.dpkg-old", 0o755, ""}, file{"a b", 0o755, ""}, file{"é", 0o755, ""})
	dir := folder(t, files...)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "folder"), 0o755), os.Symlink("/bin/true", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	r := runner(dir, nil)
	r.scan()
	if len(r.hooks) != maxHooks {
		t.Errorf("%d hooks: %v", len(r.hooks), r.hooks)
	}
	want := map[string]string{"20-one-too-many": "more than 16", "group": "others than root may write it", "world": "others than root may write it", "off-world": "others than root may write it",
		`"a b"`: "its name", `"\u00e9"`: "its name", "folder": "it is no file", "link": "it is a symbolic link"}
	got := r.Problems()
	if len(got) != len(want) {
		t.Errorf("%d problems, want %d: %+v", len(got), len(want), got)
	}
	for _, p := range got {
		if w := want[filepath.Base(p.Path)]; w == "" || !strings.Contains(p.Why, w) || p.Do == "" {
			t.Errorf("%+v", p)
		}
	}

	r.cfg.Owner = os.Getuid() + 1
	if r.scan(); len(r.hooks) != 0 || len(r.Problems()) != 1 || r.Problems()[0].Path != dir {
		t.Errorf("a folder of somebody else's: %v %v", r.hooks, r.Problems())
	}
	r.cfg.Owner = os.Getuid()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if r.scan(); len(r.hooks) != 0 || len(r.Problems()) != 1 {
		t.Errorf("a folder that all may write: %v %v", r.hooks, r.Problems())
	}
	r.cfg.Dir = filepath.Join(dir, "nowhere")
	if r.scan(); len(r.Problems()) != 0 {
		t.Errorf("no folder is no problem: %v", r.Problems())
	}
}

// A hook that hangs holds up nobody, and its events do not pile up: of each thing it
// is told the newest.
func TestSlow(t *testing.T) {
	dir := folder(t, file{"fast", 0o755, ""}, file{"slow", 0o755, ""})
	synctest.Test(t, func(t *testing.T) {
		var fast, slow []string
		running := 0
		r := runner(dir, func(ctx context.Context, path string, _ []string, stdin []byte, limit time.Duration) error {
			var e Event
			if err := json.Unmarshal(stdin, &e); err != nil {
				t.Error(err)
			}
			said := fmt.Sprintf("%s %s %s %d", e.Node, e.Condition, e.Status, e.Skipped)
			if filepath.Base(path) == "fast" {
				fast = append(fast, said)
				return nil
			}
			if running++; running > 1 {
				t.Error("it runs twice at once")
			}
			defer func() { running-- }()
			slow = append(slow, said)
			select {
			case <-time.After(limit):
			case <-ctx.Done():
			}
			return errors.New("killed")
		})
		started(t, r)
		synctest.Wait()
		r.Post(condition("n1", "Hot", "true"))
		synctest.Wait()
		for range 500 {
			r.Post(condition("n1", "DiskFull", "true"))
			synctest.Wait()
			r.Post(condition("n1", "DiskFull", "false"))
			synctest.Wait()
		}
		r.Post(condition("n2", "Hot", "true"))
		synctest.Wait()
		if len(fast) != 1002 {
			t.Errorf("the fast one was told %d events", len(fast))
		}
		time.Sleep(3 * DefaultLimit)
		synctest.Wait()
		if got := strings.Join(slow, ", "); got != "n1 Hot true 0, n1 DiskFull false 999, n2 Hot true 0" {
			t.Errorf("the slow one was told %s", got)
		}
		if p := r.Problems(); len(p) != 1 || !strings.Contains(p[0].Why, "killed") || filepath.Base(p[0].Path) != "slow" {
			t.Errorf("%+v", p)
		}

		// Of many things it is told the newest.
		r.Post(condition("n1", "Hot", "true"))
		synctest.Wait()
		for i := range 10 * maxWaiting {
			r.Post(condition(fmt.Sprintf("m%d", i), "Hot", "true"))
			synctest.Wait()
		}
		slow = nil
		time.Sleep(time.Duration(maxWaiting+2) * DefaultLimit)
		synctest.Wait()
		if len(slow) != maxWaiting || slow[0] != fmt.Sprintf("m%d Hot true %d", 9*maxWaiting, 9*maxWaiting) {
			t.Errorf("%d events: %v", len(slow), slow)
		}
		if n := r.Runs(); n["skipped"] != 999+9*maxWaiting || n["ok"] != len(fast) || n["failed"] != 3+1+maxWaiting {
			t.Errorf("%v", n)
		}
	})
}

// A hook that comes while the agent runs is found, and one that goes is not run.
func TestComeAndGo(t *testing.T) {
	dir := folder(t, file{"a", 0o755, ""})
	synctest.Test(t, func(t *testing.T) {
		var ran []string
		r := runner(dir, func(_ context.Context, path string, _ []string, _ []byte, _ time.Duration) error {
			ran = append(ran, filepath.Base(path))
			return nil
		})
		started(t, r)
		r.Post(condition("n1", "Hot", "true"))
		synctest.Wait()
		if err := errors.Join(os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b"))); err != nil {
			t.Fatal(err)
		}
		r.Post(condition("n1", "Hot", "false"))
		synctest.Wait()
		if got := strings.Join(ran, " "); got != "a b" {
			t.Errorf("ran %s", got)
		}
	})
}

// Nothing happens without hooks, and a runner that there is not takes everything.
func TestNone(t *testing.T) {
	var none *Runner
	none.Post(Event{})
	if p := none.Problems(); len(p) != 0 {
		t.Error(p)
	}
}
