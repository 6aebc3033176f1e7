package hooks

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// scan looks which hooks there are, and which may not be run.
func (r *Runner) scan() {
	files, bad := r.look()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range bad {
		if !slices.Contains(r.bad, p) {
			r.cfg.Log.Warn("a hook is not run", "hook", p.Path, "why", p.Why, "do", p.Do)
		}
	}
	r.bad = bad
	for path, h := range r.hooks {
		switch {
		case slices.Contains(files, path):
		case h.busy: // it ends by itself
			*h.waiting = queue{}
		default:
			delete(r.hooks, path)
		}
	}
	for _, path := range files {
		if _, known := r.hooks[path]; !known {
			r.hooks[path] = hook{waiting: &queue{}}
		}
	}
}

func (r *Runner) look() (files []string, bad []Problem) {
	dir := r.cfg.Dir
	st, err := os.Lstat(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("it is no folder")
	}
	if err != nil {
		return nil, []Problem{{dir, err.Error(), "make it a folder of root's"}}
	}
	if why := r.others(st); why != "" {
		return nil, []Problem{{dir, why, "chown root " + dir + " && chmod go-w " + dir}}
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, []Problem{{dir, err.Error(), ""}}
	}
	defer f.Close()
	entries, err := f.ReadDir(maxEntries)
	if err != nil && err != io.EOF {
		return nil, []Problem{{dir, err.Error(), ""}}
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if leftover(e.Name()) {
			continue
		}
		st, err := e.Info()
		switch {
		case err != nil: // removed meanwhile
		case !named(e.Name()):
			bad = append(bad, Problem{dir + "/" + strconv.QuoteToASCII(e.Name()), "its name is not made of letters, digits, dot, - and _, 64 at most", "rename it"})
		case st.Mode()&os.ModeSymlink != 0:
			bad = append(bad, Problem{path, "it is a symbolic link", "copy the file instead"})
		case !st.Mode().IsRegular():
			bad = append(bad, Problem{path, "it is no file", "remove it"})
		case r.others(st) != "":
			bad = append(bad, Problem{path, r.others(st), "chown root " + path + " && chmod go-w " + path})
		case st.Mode()&0o111 == 0: // switched off, or a note
		case len(files) == maxHooks:
			bad = append(bad, Problem{path, fmt.Sprintf("there are more than %d", maxHooks), "remove what is not needed"})
		default:
			files = append(files, path)
		}
	}
	return files, bad
}

// others says who else than the owner could have written it.
func (r *Runner) others(st os.FileInfo) string {
	switch sys, ok := st.Sys().(*syscall.Stat_t); {
	case !ok || int(sys.Uid) != r.cfg.Owner:
		return "root does not own it"
	case st.Mode()&0o022 != 0:
		return "others than root may write it"
	}
	return ""
}

// leftover is a file that an editor or the package manager left.
func leftover(name string) bool {
	return name[0] == '.' || strings.HasSuffix(name, "~") || strings.Contains(name, ".dpkg-") || strings.HasSuffix(name, ".swp")
}

func named(name string) bool {
	return len(name) <= 64 && !strings.ContainsFunc(name, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_')
	})
}
