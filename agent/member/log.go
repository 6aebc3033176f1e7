package member

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newLogger turns Serf's "[WARN] serf: …" lines into events of ours. What Serf
// calls info is chatter to an operator.
func newLogger(to *slog.Logger, c *conflicts) *log.Logger {
	return log.New(lineWriter{to, c}, "", 0)
}

type lineWriter struct {
	log *slog.Logger
	c   *conflicts
}

func (w lineWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	for prefix, l := range map[string]slog.Level{"[WARN] ": slog.LevelWarn, "[ERR] ": slog.LevelWarn, "[INFO] ": slog.LevelDebug, "[DEBUG] ": slog.LevelDebug} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			line, level = rest, l
			break
		}
	}
	if strings.Contains(strings.ToLower(line), "conflict") {
		level = slog.LevelError
		w.c.note(line)
	}
	w.log.Log(context.Background(), level, line, "from", "gossip")
	return len(p), nil
}

// conflicts remembers the newest complaint about a second host of the same name.
type conflicts struct {
	mu   sync.Mutex
	text string
	at   time.Time
}

func (c *conflicts) note(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text, c.at = text, time.Now()
}

func (c *conflicts) recent() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > time.Minute {
		return ""
	}
	return c.text
}
