package rehearse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Spec is what runs in the sandbox, as a file.
type Spec struct {
	Programs []Program     `json:"programs"`
	API      API           `json:"api"`
	Limit    time.Duration `json:"limit"`
	Result   string        `json:"result"` // file of the Outcome
}

// Outcome is what came of it, as a file.
type Outcome struct {
	Canary string `json:"canary,omitempty"` // what it says
	Error  string `json:"error,omitempty"`
}

// maxFile bounds both files.
const maxFile = 1 << 20

func read(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	return err
}

// ReadSpec reads a Spec.
func ReadSpec(path string) (s Spec, err error) {
	if err = read(path, &s); err != nil {
		return s, fmt.Errorf("read what is to be rehearsed: %w", err)
	}
	return s, nil
}

// ReadOutcome reads an Outcome.
func ReadOutcome(path string) (o Outcome, err error) {
	if err = read(path, &o); err != nil {
		return o, fmt.Errorf("the rehearsal ended without a word: %w", err)
	}
	return o, nil
}

// Asker asks the control plane.
type Asker interface {
	// WaitReady returns when the API says that it is ready, or ctx ends.
	WaitReady(ctx context.Context) error
	// ReadCanary returns what the canary says, "" if there is none.
	ReadCanary(ctx context.Context) (string, error)
}

// Inside starts the programs, waits until the API is ready, reads the canary, ends the
// programs and writes the outcome. It is called in the sandbox, by a process of its own.
func Inside(ctx context.Context, s Spec, ask Asker) error {
	var o Outcome
	err := inside(ctx, s, ask, &o)
	if err != nil {
		o.Error = err.Error()
	}
	b, jerr := json.Marshal(o)
	if jerr == nil {
		jerr = os.WriteFile(s.Result, b, 0o600)
	}
	return errors.Join(err, jerr)
}

func inside(ctx context.Context, s Spec, ask Asker, o *Outcome) error {
	limited, stop := context.WithTimeoutCause(ctx, s.Limit, fmt.Errorf("it was not ready within %v", s.Limit))
	defer stop()
	g, ctx := errgroup.WithContext(limited)
	var tails []*tail
	for _, p := range s.Programs {
		t := &tail{name: filepath.Base(p.Argv[0])}
		tails = append(tails, t)
		cmd := exec.CommandContext(ctx, p.Argv[0], p.Argv[1:]...)
		cmd.Env = append(os.Environ(), p.Env...)
		cmd.Dir = filepath.Dir(s.Result)
		cmd.Stdout, cmd.Stderr = t, t
		// A whole group: what it starts ends with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			stop()
			return errors.Join(fmt.Errorf("start %s: %w", t.name, err), g.Wait())
		}
		g.Go(func() error {
			err := cmd.Wait()
			if ctx.Err() != nil {
				return nil // ended by us
			}
			return fmt.Errorf("%s ended by itself (%v); its last words: %s", t.name, err, t)
		})
	}
	g.Go(func() error {
		defer stop()
		err := ask.WaitReady(ctx)
		if err == nil {
			o.Canary, err = ask.ReadCanary(ctx)
		}
		if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", context.Cause(limited), err)
			for _, t := range tails {
				err = fmt.Errorf("%w; the last words of %s: %s", err, t.name, t)
			}
		}
		return err
	})
	return g.Wait()
}

// tail keeps the last words of a program.
type tail struct {
	name string
	mu   sync.Mutex
	b    []byte
}

const maxTail = 600

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-maxTail):]...)
	t.b = t.b[max(0, len(t.b)-maxTail):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.ToValidUTF8(string(t.b), "?")
	return strings.Join(strings.Fields(s), " ")
}
