package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logsEnv names the folder for the journals of failed tests; "": logs in the cache.
const logsEnv = "RELEVO_TEST_LOGS"

// tellUnits are the units whose last words belong into the report of a failed test.
var tellUnits = []string{"relevo.service", "kine.service", "kube-apiserver.service", K3sUnit, K3sAgentUnit}

// NewLab is [New] for a test: it skips the test where hosts cannot be, closes the lab
// at its end, and, if the test failed, prints the end of what relevo, kine and
// kube-apiserver wrote on each host and leaves the whole journals in a folder. What
// happens to the hosts goes to the test's log, with the seconds since the start.
func NewLab(t testing.TB, o Options) *Lab {
	t.Helper()
	l := OpenLab(t, o)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	l.Use(t)
	return l
}

// OpenLab is NewLab for a lab that outlives the test: the caller closes it, and each test
// that has it calls Use.
func OpenLab(t testing.TB, o Options) *Lab {
	t.Helper()
	user := &user{t: t, start: time.Now()}
	if o.Log == nil {
		o.Log = user.log
	}
	l, err := New(t.Context(), o)
	var skip *SkipError
	if errors.As(err, &skip) {
		// Also where `go test` without -v would keep quiet.
		fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", t.Name(), skip.Reason)
		t.Skip("SKIPPED: " + skip.Reason)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.user = user
	return l
}

// Use makes a test the one that hears of the lab, until its end.
func (l *Lab) Use(t testing.TB) {
	l.user.set(t)
	t.Cleanup(func() {
		if t.Failed() {
			tell(t, l)
		}
		l.user.set(nil)
	})
}

// user is the test that has a lab now.
type user struct {
	mu    sync.Mutex
	t     testing.TB // nil: none
	start time.Time
}

func (u *user) set(t testing.TB) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t != nil && u.t != t {
		u.start = time.Now()
	}
	u.t = t
}

func (u *user) log(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.t != nil {
		u.t.Logf("%7.3f  %s", time.Since(u.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// tell reports the journals of a failed test.
func tell(t testing.TB, l *Lab) {
	// The test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, h := range l.Hosts() {
		if text, err := h.Script(ctx, "ip -o address show scope global; ip neighbour; ss -Htn"); err == nil {
			t.Logf("--- %s, its addresses, neighbours and connections\n%s", h.Name, lastLines(text, 60))
		}
		for _, u := range tellUnits {
			if text, err := h.Journal(ctx, u); err == nil && text != "" {
				t.Logf("--- %s, the end of %s\n%s", h.Name, u, lastLines(text, 40))
			}
		}
	}
	dir := os.Getenv(logsEnv)
	if dir == "" {
		dir = filepath.Join(l.Dir, "..", "..", "logs")
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+time.Now().Format("-20060102-150405"))
	if err := l.Dump(ctx, dir, tellUnits...); err != nil {
		t.Log(err)
	}
	t.Logf("the whole journals are in %s", dir)
}
