package replica

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A busy master is looked at instead of listened to, a quiet one the other way round; and
// between the two no write is missed.
func TestWakerChangesOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	written := 0
	write := func() {
		t.Helper()
		written++
		if err := os.WriteFile(path+"-wal", make([]byte, written), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := newWaker(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	// hear waits for inotify to make a wake-up due.
	hear := func() {
		t.Helper()
		for !w.due {
			select {
			case ev := <-w.events():
				w.heard(ev)
			case <-t.Context().Done():
				t.Fatal("inotify said nothing")
			}
		}
	}
	is := func(m wakerMode, watched bool) {
		t.Helper()
		if w.mode != m || w.watched != watched || (len(w.inotify.WatchList()) > 0) != watched {
			t.Fatalf("mode %d, watched %v (%v), want mode %d, watched %v", w.mode, w.watched, w.inotify.WatchList(), m, watched)
		}
	}

	is(deaf, false)
	w.set(true)
	is(hearing, true)
	now := time.Unix(1000, 0)
	next := func(d time.Duration) bool { now = now.Add(d); return w.fired(now) }

	for range 3 * steady { // far apart: inotify costs nothing worth saving
		write()
		hear()
		if !next(time.Second) {
			t.Fatal("a write woke nobody")
		}
	}
	is(hearing, true)
	for range steady - 1 {
		write()
		hear()
		next(settle)
	}
	is(looking, false)
	for range 3 * steady {
		write()
		if !next(settle) {
			t.Fatal("a write woke nobody")
		}
		if next(settle) {
			t.Fatal("woken for nothing")
		}
	}
	is(looking, false)
	for range steady - 2 { // one look in vain was above
		if next(settle) {
			t.Fatal("woken for nothing")
		}
	}
	if !next(settle) {
		t.Fatal("what was written before inotify listens would be missed")
	}
	is(hearing, true)
	write()
	hear()
	w.set(false)
	is(deaf, false)
	if w.due {
		t.Error("a wake-up is due that nobody wants")
	}
	w.set(true)
	is(hearing, true)
}

// Without inotify, and with a folder that comes later.
func TestWakerMakesDo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	w, err := newWaker(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.set(true)
	if w.mode != hearing || w.watched {
		t.Fatal("what is watched?")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if w.set(true); !w.watched {
		t.Error("a folder that came later is not watched")
	}
	w.set(false)
	w.close()

	w.inotify = nil
	w.set(true)
	for range 3 * steady {
		if w.mode != looking || !w.due || w.fired(time.Now()) {
			t.Fatal("without inotify the log is looked at all the time, and wakes nobody while it stands still")
		}
	}
}
