package kine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Of the datastores that were moved aside, those of the newest KeepTerms terms
// are kept, as far as they fit into KeepBytes (databases and WALs); the newest
// one always is, for it took no space that was not taken before. Of one term
// the first and the last are kept: what lay there when the term began may be
// the only trace of writes that were lost, whatever was tried after that.
const (
	KeepTerms = 2
	KeepBytes = 512 << 20
)

// aside is one datastore that was moved aside.
type aside struct {
	path  string
	term  uint64 // in which it was moved
	n     int    // in that term
	bytes int64
}

// Asides lists the datastores that were moved aside from path, oldest first.
func Asides(path string) ([]string, error) {
	list, err := asides(path)
	paths := make([]string, len(list))
	for i, a := range list {
		paths[i] = a.path
	}
	return paths, err
}

// asides are ordered by term and number: the clock of a Pi may say 1970.
func asides(path string) ([]aside, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []aside
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".relevo-aside-")
		if !ok {
			continue
		}
		t, n, _ := strings.Cut(rest, "-")
		term, err1 := strconv.ParseUint(t, 10, 64)
		num, err2 := strconv.Atoi(n)
		if err1 != nil || err2 != nil {
			continue // its WAL, or somebody else's
		}
		a := aside{path: filepath.Join(filepath.Dir(path), e.Name()), term: term, n: num}
		for _, suffix := range []string{"", "-wal"} {
			if fi, err := os.Stat(a.path + suffix); err == nil {
				a.bytes += fi.Size()
			}
		}
		list = append(list, a)
	}
	sort.Slice(list, func(i, j int) bool {
		return cmp.Or(cmp.Compare(list[i].term, list[j].term), cmp.Compare(list[i].n, list[j].n)) < 0
	})
	return list, nil
}

// surplus chooses what is not kept, from a list in the order of asides.
func surplus(list []aside, limit int64) (out []aside) {
	var terms int
	var bytes int64
	for i := len(list) - 1; i >= 0; i-- {
		a := list[i]
		last := i == len(list)-1 || list[i+1].term != a.term
		first := i == 0 || list[i-1].term != a.term
		if last {
			terms++
		}
		if terms > KeepTerms || !first && !last || i < len(list)-1 && bytes+a.bytes > limit {
			out = append(out, a)
			continue
		}
		bytes += a.bytes
	}
	return out
}

// prune removes what is not kept.
func prune(path string) error {
	list, err := asides(path)
	if err != nil {
		return err
	}
	for _, a := range surplus(list, KeepBytes) {
		for _, suffix := range []string{"-shm", "-wal", ""} {
			if err := os.Remove(a.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove an old datastore: %w", err)
			}
		}
	}
	return nil
}
