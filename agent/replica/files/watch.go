package files

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// With inotify a listing is made anew after a change, and seldom without one: events may
// be lost.
const (
	settle    = 250 * time.Millisecond // a listing is not made oftener than that
	slowly    = time.Minute
	tryWatch  = 10 * time.Second // roots that were not there may have come
	maxFolder = 512              // folders that are watched
)

// Run watches the identity until ctx ends. Without it, and where inotify is not to be
// had, the listing is as old as [NewScanner] says.
func (s *Scanner) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil // out of instances: the poll remains
	}
	defer w.Close()
	defer s.watching(false)
	again := time.NewTicker(tryWatch)
	defer again.Stop()
	all := s.watch(w)
	for {
		s.watching(all)
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			if !all {
				all = s.watch(w)
			}
		case _, ok := <-w.Errors: // overflow
			if !ok {
				return nil
			}
			s.changed()
		case e, ok := <-w.Events:
			if !ok {
				return nil
			}
			if rootOf(e.Name, s.spec.Roots) == "" {
				continue // beside it
			}
			if e.Has(fsnotify.Create | fsnotify.Remove | fsnotify.Rename) {
				all = s.watch(w) // folders come and go
			}
			s.changed()
		}
	}
}

// watch adds what is not watched yet; false if something could not be.
func (s *Scanner) watch(w *fsnotify.Watcher) bool {
	folders, complete := []string{}, true
	for _, root := range s.spec.Roots {
		folders = append(folders, filepath.Dir(root)) // the root may be replaced as a whole
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && len(folders) < maxFolder {
				folders = append(folders, path)
			}
			return err
		})
		if err != nil && !(os.IsNotExist(err) && slices.Contains(s.spec.MayMiss, root)) {
			complete = false
		}
	}
	for _, f := range folders {
		if w.Add(f) != nil {
			complete = false
		}
	}
	return complete && len(folders) < maxFolder
}

// watching notes whether every change will be told.
func (s *Scanner) watching(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && !s.watched {
		s.stale = true // what changed before
	}
	s.watched = on
}

// changed notes that the listing is no longer right.
func (s *Scanner) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = true
}

// due says whether it is time for a new listing; s.mu is held.
func (s *Scanner) due() bool {
	age := time.Since(s.at)
	switch {
	case s.at.IsZero():
		return true
	case !s.watched:
		return age >= s.every
	case s.stale:
		return age >= min(s.every, settle)
	}
	return age >= slowly
}
