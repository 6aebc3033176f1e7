package replica

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// settle is the least time between two wake-ups. inotify also speaks *before*
// SQLite has made a commit visible (the WAL is written first, then its index
// in shared memory, which makes no event), hence the looks after it.
const settle = 10 * time.Millisecond

var looks = []time.Duration{settle, 20 * time.Millisecond, 50 * time.Millisecond}

// steady is after how many wake-ups, one close on the other, a waker changes from hearing
// to looking, and after how many looks in vain it changes back.
const steady = 8

// waker knows when the datastore may have changed. It has no goroutine: who owns it
// waits for events, errors and timer.C, and calls heard and fired.
type waker struct {
	path    string            // of the datastore
	inotify *fsnotify.Watcher // nil: not to be had
	mode    wakerMode
	watched bool        // inotify watches the datastore's folder
	timer   *time.Timer // runs while a wake-up or a look is due
	due     bool
	last    time.Time // of the last wake-up
	row     int       // wake-ups close on one another, or looks in vain
	seen    logState  // when last looked
}

type wakerMode int

const (
	deaf    wakerMode = iota // nobody follows: nothing is watched
	hearing                  // little is written: inotify tells
	// looking is for a busy master, whose every write inotify would make dearer: the
	// kernel makes an event of each page, and kine spends a tenth more on a write
	// (BenchmarkTailing). A look at the log's size and time each settle costs it nothing.
	looking
)

// logState changes when the log is written. A file's time may stand still for 10 ms, which
// the looks of the streams make up for.
type logState struct {
	inode uint64
	size  int64
	mtime unix.Timespec
}

// newWaker returns a deaf waker. An error says that inotify is not to be had: then it
// looks only.
func newWaker(path string) (*waker, error) {
	w := &waker{path: path, timer: time.NewTimer(time.Hour)}
	w.timer.Stop()
	inotify, err := fsnotify.NewWatcher()
	if err == nil {
		w.inotify = inotify
	}
	return w, err
}

func (w *waker) close() {
	w.timer.Stop()
	if w.inotify != nil {
		w.inotify.Close()
	}
}

// set says whether somebody follows. It also makes up for a folder that was not there.
func (w *waker) set(followed bool) {
	switch {
	case !followed:
		w.to(deaf)
	case w.mode == deaf:
		w.to(hearing)
	case w.mode == hearing:
		w.watch()
	}
}

func (w *waker) to(m wakerMode) {
	if m == hearing && w.inotify == nil {
		m = looking
	}
	w.mode, w.row = m, 0
	w.timer.Stop()
	w.due = false
	switch m {
	case hearing:
		w.watch()
		return
	case looking:
		w.seen = w.log()
		w.wait()
	}
	if w.watched {
		_ = w.inotify.Remove(filepath.Dir(w.path)) // fails if the folder went away
		w.watched = false
	}
}

func (w *waker) watch() {
	if !w.watched {
		w.watched = w.inotify.Add(filepath.Dir(w.path)) == nil
	}
}

func (w *waker) wait() {
	w.timer.Reset(settle)
	w.due = true
}

// events are inotify's. They are not read while a wake-up is due: the kernel merges equal
// ones meanwhile.
func (w *waker) events() <-chan fsnotify.Event {
	if w.inotify == nil || w.due {
		return nil
	}
	return w.inotify.Events
}

// errors tell of events that were lost; whoever looks now and then misses nothing.
func (w *waker) errors() <-chan error {
	if w.inotify == nil {
		return nil
	}
	return w.inotify.Errors
}

// heard takes an event. check: the datastore may be another file now.
func (w *waker) heard(ev fsnotify.Event) (check bool) {
	switch {
	case ev.Has(fsnotify.Write) && strings.HasSuffix(ev.Name, "-wal"):
		if w.mode == hearing {
			w.wait()
		}
	case ev.Name == w.path && !ev.Has(fsnotify.Write): // created, renamed, removed
		return true
	case ev.Name == filepath.Dir(w.path): // the folder itself went away
		w.watched = false
		return true
	}
	return false
}

// fired is called when the timer fires. It says whether streams are to be woken.
func (w *waker) fired(now time.Time) (wake bool) {
	w.due = false
	if w.mode == hearing {
		if now.Sub(w.last) > 3*settle {
			w.row = 0
		}
		w.last = now
		if w.row++; w.row >= steady {
			w.to(looking)
		}
		return true
	}
	is := w.log()
	wake, w.seen, w.row = is != w.seen, is, w.row+1
	switch {
	case wake:
		w.row = 0
	case w.row >= steady && w.inotify != nil:
		w.to(hearing)
		return true // it may have been written before inotify listened
	}
	w.wait()
	return wake
}

func (w *waker) log() logState {
	var st unix.Stat_t
	if unix.Stat(w.path+"-wal", &st) != nil {
		return logState{} // not there: nor was it written
	}
	return logState{inode: st.Ino, size: st.Size, mtime: st.Mtim}
}
