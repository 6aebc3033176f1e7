// Package durable writes small files so that a power cut leaves the old content or
// the new, whole, and that what was written once is there after the next one.
package durable

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts data at path, with mode: a new file beside it, synced, renamed over the
// old, and the folder synced. The folder must be there.
func Replace(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // 0600 until it is whole
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
