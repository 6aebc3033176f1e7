package health

import (
	"path/filepath"
	"strings"
)

// fstabEntry is what a person wants of one file system.
type fstabEntry struct {
	point    string
	readOnly bool
}

func readFstab(f *files) []fstabEntry {
	b, err := f.read("/etc/fstab")
	if err != nil {
		return nil
	}
	var out []fstabEntry
	for len(b) > 0 && len(out) < 64 {
		var l []byte
		l, b = line(b)
		w := strings.Fields(string(l))
		if len(w) < 4 || strings.HasPrefix(w[0], "#") {
			continue
		}
		e := fstabEntry{point: unescape(w[1])}
		for o := range strings.SplitSeq(w[3], ",") {
			switch o {
			case "ro":
				e.readOnly = true
			case "rw":
				e.readOnly = false
			}
		}
		out = append(out, e)
	}
	return out
}

// meantReadOnly says whether a file system is read-only on purpose.
func meantReadOnly(fstab []fstabEntry, point, kind string) Truth {
	switch kind {
	case "squashfs", "erofs", "iso9660", "cramfs":
		return Yes // cannot be written at all
	}
	for _, e := range fstab {
		if e.point == point && point != "" {
			return TruthOf(e.readOnly)
		}
	}
	return Maybe
}

// resolve follows symbolic links, below / alone.
func resolve(root, p string) string {
	if root == "" || root == "/" {
		if q, err := filepath.EvalSymlinks(p); err == nil {
			return q
		}
	}
	return p
}
