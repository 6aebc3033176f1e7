package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxFiles of a folder that are read.
const maxFiles = 500

// The pace of watching.
const (
	calm  = 100 * time.Millisecond // without an event before the folder is read: an editor writes in steps
	again = 30 * time.Second       // between looks without inotify, or for a folder that is not there
)

// content is what is in a folder: the text of each file by name, and why others cannot
// be read.
type content struct {
	texts  map[string][]byte
	faults []*Error
}

func (c content) equal(o content) bool {
	return maps.EqualFunc(c.texts, o.texts, bytes.Equal) && slices.EqualFunc(c.faults, o.faults, func(a, b *Error) bool { return *a == *b })
}

// wanted says whether a file is one of ours: not one that an editor or dpkg keeps aside.
func wanted(name string) bool {
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".service"))
}

// read reads a folder; one that is not there is empty.
func read(dir string) content {
	c := content{texts: map[string][]byte{}}
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.faults = append(c.faults, &Error{File: dir, Msg: "cannot be read: " + reason(err)})
	}
	n := 0
	for _, d := range all {
		if !wanted(d.Name()) {
			continue
		}
		path := filepath.Join(dir, d.Name())
		if n++; n > maxFiles {
			c.faults = append(c.faults, &Error{File: dir, Msg: fmt.Sprintf("%d files are read, the rest is left out", maxFiles)})
			break
		}
		text, err := readFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile
		case err != nil:
			c.faults = append(c.faults, &Error{File: path, Msg: "cannot be read: " + reason(err)})
		default:
			c.texts[path] = text
		}
	}
	return c
}

func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

// readFile reads a small plain file, and does not wait for a writer of anything else.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is no plain file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(text) > maxSize {
		err = fmt.Errorf("it is larger than %d KiB", maxSize>>10)
	}
	return text, err
}

// watch calls changed with what is in a folder, at once and after every change, until
// ctx ends.
func watch(ctx context.Context, dir string, log *slog.Logger, changed func(content)) {
	last := read(dir)
	changed(last)
	look := func() {
		if c := read(dir); !c.equal(last) {
			last = c
			changed(c)
		}
	}
	for told := false; ctx.Err() == nil; {
		err := follow(ctx, dir, look)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !told {
			told = true
			log.Warn("services are looked for now and then only: the folder cannot be watched", "dir", dir, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
		look()
	}
}

// follow calls look whenever something happened in dir, until that cannot be told any
// more.
func follow(ctx context.Context, dir string, look func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		// Its parent tells when it comes, if that is there.
		if !errors.Is(err, fs.ErrNotExist) || w.Add(filepath.Dir(dir)) != nil {
			return err
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case err := <-w.Errors:
				return err
			case e := <-w.Events:
				if e.Name == dir && e.Has(fsnotify.Create) {
					w.Close()
					return follow(ctx, dir, look)
				}
			}
		}
	}
	look() // what came before the watch
	t := time.NewTimer(0)
	t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			look()
			return err
		case e := <-w.Events:
			if e.Name == dir && (e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)) {
				look()
				return nil
			}
			t.Reset(calm)
		case <-t.C:
			look()
		}
	}
}
