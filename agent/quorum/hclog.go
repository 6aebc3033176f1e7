package quorum

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// logger lets raft log through slog. raft talks a lot, and mostly about its own
// doings: everything below an error is debug here. Errors are warnings, because
// raft calls it an error when another board is switched off; and the same one is
// shown once in repeatAfter, as raft repeats it with every heartbeat.
type logger struct {
	to   *slog.Logger
	name string
	args []any
	seen *seen
}

const (
	repeatAfter = 5 * time.Minute
	maxSeen     = 64
)

type seen struct {
	mu   sync.Mutex
	when map[string]time.Time
}

func newLogger(to *slog.Logger) hclog.Logger {
	return &logger{to: to, seen: &seen{when: map[string]time.Time{}}}
}

// again says whether key was shown a short while ago, and notes it if not.
func (s *seen) again(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if t, ok := s.when[key]; ok && now.Sub(t) < repeatAfter {
		return true
	}
	if len(s.when) >= maxSeen {
		clear(s.when) // rather show one twice than grow
	}
	s.when[key] = now
	return false
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	at := slog.LevelDebug
	if level >= hclog.Error && level != hclog.Off {
		at = slog.LevelWarn
		if l.seen.again(msg + peerOf(args)) {
			at = slog.LevelDebug
		}
	}
	if !l.to.Enabled(context.Background(), at) {
		return
	}
	l.to.Log(context.Background(), at, msg, append(plain(l.args), plain(args)...)...)
}

// peerOf finds whom a message is about, so that two boards that are away are
// both mentioned.
func peerOf(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "target", "server-id":
			return fmt.Sprint(" ", args[i+1])
		}
	}
	return ""
}

// plain turns hclog's own kinds of values into ordinary ones.
func plain(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				a = fmt.Sprintf(format, f[1:]...)
			}
		}
		out[i] = a
	}
	return out
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) debug() bool { return l.to.Enabled(context.Background(), slog.LevelDebug) }

func (l *logger) IsTrace() bool      { return l.debug() }
func (l *logger) IsDebug() bool      { return l.debug() }
func (l *logger) IsInfo() bool       { return l.debug() }
func (l *logger) IsWarn() bool       { return l.debug() }
func (l *logger) IsError() bool      { return l.to.Enabled(context.Background(), slog.LevelWarn) }
func (l *logger) ImpliedArgs() []any { return l.args }
func (l *logger) Name() string       { return l.name }

func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.args = append(append([]any(nil), l.args...), args...)
	return &c
}

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

// SetLevel does nothing: the level is slog's.
func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	if l.debug() {
		return hclog.Trace
	}
	return hclog.Error
}

func (l *logger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(o), "", 0)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lines{l} }

type lines struct{ l *logger }

func (w lines) Write(p []byte) (int, error) {
	w.l.Debug(string(p))
	return len(p), nil
}
