package files

import (
	"fmt"
	"io"
	"os"
)

// Each calls f for every mirrored file of at most limit bytes, with its path on the
// control plane's host. fs.ErrNotExist if there is no mirror. An error of f ends it.
func Each(dir string, roots []string, limit int64, f func(path string, data []byte) error) error {
	man, err := load(dir, roots)
	if err != nil {
		return err
	}
	for i := range man.Entries {
		e := &man.Entries[i]
		if e.Kind != KindFile || e.Size > limit {
			continue
		}
		data, err := read(blob(dir, e.SHA256), limit)
		if err != nil {
			return fmt.Errorf("read the mirror of %s: %w", e.Path, err)
		}
		if err := f(e.Path, data); err != nil {
			return err
		}
	}
	return nil
}

func read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
