package quorum

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestLogger(t *testing.T) {
	var buf bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo}))).Named("raft").With("id", 3)
	l.Info("entering follower state")
	l.Warn("heartbeat timeout reached")
	if buf.Len() > 0 {
		t.Errorf("chatter got through: %s", &buf)
	}
	for range 10 {
		l.Error("failed to heartbeat to", "peer", "n2", "error", errors.New("refused"), "backoff", hclog.Fmt("%d/%d", 1, 2))
		l.Error("failed to heartbeat to", "peer", "n3")
	}
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `level=WARN msg="failed to heartbeat to" id=3 peer=n2 error=refused backoff=1/2`) {
		t.Errorf("got:\n%s", &buf)
	}
	if l.Name() != "raft" || l.Named("net").Name() != "raft.net" || l.IsDebug() || !l.IsError() || l.GetLevel() != hclog.Error {
		t.Error("name or level")
	}
}
