package hosts

import (
	"io"
	"path/filepath"
	"strings"
	"testing"
)

// told is closed by the first line that is written to it.
type told chan struct{}

func (c told) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "waiting for the test hosts") {
		close(c)
	}
	return len(b), nil
}

// TestReserve: who comes second says that it waits, and has its turn when the first has ended.
func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := reserve(path, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	waits, has := make(told), make(chan error, 1)
	go func() {
		f, err := reserve(path, waits)
		if err == nil {
			err = f.Close()
		}
		has <- err
	}()
	select {
	case <-waits:
	case err := <-has:
		t.Fatalf("two have it at the same time (%v)", err)
	}
	first.Close()
	if err := <-has; err != nil {
		t.Error(err)
	}
}
