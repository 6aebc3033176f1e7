package hosts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// labLock is not in the cache, which may be moved: one process a machine has labs.
const labLock = "/run/lock/rlv-lab.lock"

var reserved struct {
	mu   sync.Mutex
	file *os.File // its lock is this process's until that ends
	used bool     // there is a lab
}

// Reserve waits until no other process has hosts on this machine, as long as that takes, and
// then nobody else has until this one ends. [New] does it where nobody has; a TestMain that
// does it keeps the waiting out of the time that the tests may take. What is waited for is
// said on out.
func Reserve(out io.Writer) error {
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	if reserved.file != nil || os.Geteuid() != 0 { // without root there are no hosts
		return nil
	}
	f, err := reserve(labLock, out)
	if err == nil {
		reserved.file = f
	}
	return err
}

// claim is Reserve for a lab: a second one would sweep the first away as left over.
func claim(out io.Writer) (release func(), err error) {
	if err := Reserve(out); err != nil {
		return nil, err
	}
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	if reserved.used {
		return nil, errors.New("this process has a lab already: close that first")
	}
	reserved.used = true
	return func() {
		reserved.mu.Lock()
		defer reserved.mu.Unlock()
		reserved.used = false
	}, nil
}

func reserve(path string, out io.Writer) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("reserve this machine for test hosts: %w", err)
	}
	begin := time.Now()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		fmt.Fprintf(out, "waiting for the test hosts: another process has some on this machine (%s)\n", path)
		for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
		if err == nil {
			fmt.Fprintf(out, "waited %.0f s for the test hosts\n", time.Since(begin).Seconds())
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
