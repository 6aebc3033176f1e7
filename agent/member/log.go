package member

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newLogger turns the lines of Serf and memberlist, "[WARN] serf: …", into events
// of ours. What they call info is chatter to an operator. What they call an error
// is mostly a board that is switched off; so it is a warning, and a line that
// differs from an earlier one in digits only is shown once in repeatAfter.
func newLogger(to *slog.Logger) *log.Logger {
	return log.New(&lineWriter{to: to, seen: map[string]time.Time{}}, "", 0)
}

const (
	repeatAfter = 5 * time.Minute
	maxSeen     = 64
)

type lineWriter struct {
	to   *slog.Logger
	mu   sync.Mutex
	seen map[string]time.Time
}

func (w *lineWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if word, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "] "); ok && line[0] == '[' {
		line = rest
		switch word {
		case "ERR", "ERROR":
			level = slog.LevelWarn
		case "WARN":
			level = slog.LevelInfo
		}
	}
	if level > slog.LevelDebug && w.again(line) {
		level = slog.LevelDebug
	}
	w.to.Log(context.Background(), level, line, "from", "gossip")
	return len(p), nil
}

func (w *lineWriter) again(line string) bool {
	key := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, line)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if t, ok := w.seen[key]; ok && now.Sub(t) < repeatAfter {
		return true
	}
	if len(w.seen) >= maxSeen {
		clear(w.seen) // rather show one twice than grow
	}
	w.seen[key] = now
	return false
}
